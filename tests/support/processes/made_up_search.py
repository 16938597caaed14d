"""The command `tune` with trials that are made up: a whole search in seconds, without Ray and MLflow.

python made_up_search.py FOLDER PAUSE [OPTION ...]: a trial takes PAUSE seconds. MADE_UP_MLFLOW=1 in the
environment keeps MLflow.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meanflow_tune.driver import driver, tune_command
from meanflow_tune.records import Outcome, Report
from tests.support.paths import TINY_SPACE
from tests.support.sinks import RecordingSink


class MadeUp:
    slots, description = 1, "made up"

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def search(self, stage: Any, name: str, interrupt: Any) -> None:
        while not interrupt.requested and (job := stage.next_job()) is not None:
            budget, outcome = job.config["budget"], Outcome("completed")
            for share in budget["rungs"]:
                images = int(share * budget["images"])
                progress = {"phase": "train", "images": images, "of": budget["images"]}
                stage.on_tick({"progress": {job.number: progress}})
                time.sleep(self.pause / len(budget["rungs"]))
                gap = 1.0 / (1.0 + job.number)
                metrics = {"teacher_gap@1": gap, "teacher_gap@2": gap}
                if not stage.on_report(job.number, Report(images, metrics, {}, time.time())):
                    outcome = Outcome("pruned", "stopped at a rung")
                    break
            stage.on_end(job.number, outcome)


def main() -> None:
    folder, pause, *options = sys.argv[1:]

    class Runner:
        @classmethod
        @contextmanager
        def start(cls, **_: Any) -> Iterator[MadeUp]:
            yield MadeUp(float(pause))

    driver.Runner = Runner  # type: ignore[assignment,misc]
    if "MADE_UP_MLFLOW" not in os.environ:
        driver.MlflowSink = RecordingSink  # type: ignore[assignment,misc]
    words = ["--space", str(TINY_SPACE), "--study", "s", "--storage", str(Path(folder))]
    words += ["--trials", "6", "--confirm", "0", *options]
    sys.argv = ["scripts/tune.py", *words]
    tune_command.run_process(words)


if __name__ == "__main__":
    main()
