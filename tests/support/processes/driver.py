"""A driver as its own process: `python -m tests.support.processes.driver FOLDER [ADDRESS]`.

Prints a line per report and outcome; nothing else may appear on its terminal.
"""

import json
import sys
from pathlib import Path
from typing import Any

from meanflow_tune.cluster.connection import local_ray, session
from meanflow_tune.cluster.signals import Interrupt
from tests.support.processes.fake_training import run_job
from tests.support.processes.toy_director import ToyDirector


class LoudDirector(ToyDirector):
    def on_report(self, number: int, report: Any) -> bool:
        print(f"report {number} {report.images}", flush=True)
        return super().on_report(number, report)

    def on_end(self, number: int, outcome: Any) -> None:
        print(f"end {number} {outcome.status}", flush=True)
        super().on_end(number, outcome)


def main(folder: Path, address: str | None) -> int:
    from meanflow_tune.cluster.broker_handle import start_broker
    from meanflow_tune.cluster.doctor.examination import examine_hosts
    from meanflow_tune.cluster.slots.owner import Owner
    from meanflow_tune.cluster.slots.spec import SlotSpec
    from meanflow_tune.cluster.slots.watch import Slots
    from meanflow_tune.cluster.tuner import run_search

    started = session.join(address) if address else local_ray.start_local(cpus=2)
    with started, Interrupt() as interrupt:
        if address:
            asked = [one for one in examine_hosts(folder, None) if one.check == "versions"]
            print(f"hosts {len(asked)}", flush=True)
        broker = start_broker()
        config = json.loads((folder / "config.json").read_text())
        director = LoudDirector([config] * 3, folder)
        spec = SlotSpec.of(broker, 1, {"CPU": 1.0}, run_job)
        with Slots(spec, lambda: 2, Owner(folder, epoch=1)) as slots:
            run_search(director, broker, folder, "toy", slots, interrupt)
        return 130 if interrupt.requested else 0


if __name__ == "__main__":
    try:
        status = main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    except KeyboardInterrupt:
        print("at once", flush=True)
        status = 131
    session.end_process(status)
