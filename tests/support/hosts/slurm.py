"""A stand-in of Slurm on the hosts of a bed: `srun` runs its command on other hosts, `scontrol` is noted.

Programs of a host cannot reach another host's processes, so `srun` puts its command into a shared folder,
where a thread of the test finds it.
"""

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.hosts.namespaces import Bed, Host, HostProcess

KILL_SECONDS = 30.0  # after SIGTERM, as Slurm's KillWait

_SCONTROL = """#!/bin/bash
echo "$*" >> "$SLURM_STAND_IN/scontrol"
[ "$1" = show ] && tr , '\\n' <<< "$3"
exit 0
"""
_SRUN = """#!/bin/bash
step=$(mktemp -d "$SLURM_STAND_IN/step-XXXXXX")
trap 'touch "$step/cancelled"' TERM INT
for word; do
    case $word in
        --nodelist=*) tr , '\\n' <<< "${word#*=}" > "$step/nodes" ;;
        --*) ;;
        *) break ;;
    esac
    shift
done
printf '%s\\0' "$@" > "$step/words"
env -0 > "$step/environment"
touch "$step/ready"
until [ -e "$step/status" ]; do sleep .1; done
cat "$step/output"
exit "$(cat "$step/status")"
"""


@dataclass
class Slurm:
    """folder: shared by all hosts, with the programs in `bin`."""

    bed: Bed
    folder: Path
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def scontrol(self) -> list[str]:
        """What `scontrol` was asked for."""
        path = self.folder / "scontrol"
        return path.read_text().splitlines() if path.exists() else []

    def requeued(self, job: int) -> bool:
        return f"requeue {job}" in self.scontrol

    def start(
        self, host: Host, script: Path, job: int, *options: str, **variables: str
    ) -> HostProcess:
        """What Slurm does with a submitted script: runs it on the first host of the allocation."""
        own = {
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NODELIST": ",".join(host.name for host in self.bed.hosts),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_STAND_IN": str(self.folder),
        }
        path = f"{self.folder / 'bin'}:{host.environment()['PATH']}"
        words = ["bash", str(script), *options]
        return host.start(words, f"job{job}", PATH=path, **own, **variables)

    def run(self) -> None:
        """Serve `srun` until `stop`; a step in a thread of its own."""
        threads = []
        while not self._ended.wait(0.1):
            for ready in self.folder.glob("step-*/ready"):
                ready.unlink()
                threads.append(threading.Thread(target=self._step, args=(ready.parent,)))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        self._ended.set()

    def _step(self, step: Path) -> None:
        nodes = (step / "nodes").read_text().split()
        words = (step / "words").read_text().split("\0")[:-1]
        settings = dict(
            line.partition("=")[::2]
            for line in (step / "environment").read_text().split("\0")
            if line.partition("=")[0] not in ("", "PWD", "OLDPWD", "SHLVL", "_")
        )
        hosts = [host for host in self.bed.hosts if host.name in nodes]
        started = [
            host.start(words, f"{step.name}-{Path(words[0]).name}", **settings) for host in hosts
        ]
        told = 0.0
        while any(process.poll() is None for process in started):
            if not told and ((step / "cancelled").exists() or self._ended.is_set()):
                told = time.monotonic()
                for process in started:
                    process.signal(signal.SIGTERM)
            if told and time.monotonic() - told > KILL_SECONDS:
                for process in started:
                    process.signal(signal.SIGKILL, group=True)
            time.sleep(0.1)
        (step / "output").write_text("".join(process.said() for process in started))
        (step / "status.new").write_text(str(max(abs(process.wait(0)) for process in started)))
        (step / "status.new").rename(step / "status")


@contextmanager
def running_slurm(bed: Bed) -> Iterator[Slurm]:
    slurm = Slurm(bed, bed.shared / "slurm")
    programs = slurm.folder / "bin"
    programs.mkdir(parents=True)
    for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    thread = threading.Thread(target=slurm.run)
    thread.start()
    try:
        yield slurm
    finally:
        slurm.stop()
        thread.join()
        shutil.rmtree(slurm.folder)
