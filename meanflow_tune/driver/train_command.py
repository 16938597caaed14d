"""The command `train`: one configuration, without Ray; resumes where it stopped."""

import json
import math
import os
import signal
import sys
import time
from typing import Any, NoReturn

from meanflow_tune.driver.cli import train_parser
from meanflow_tune.driver.handling.device import usable_device
from meanflow_tune.driver.output import outlive_terminal, say, steady_output
from meanflow_tune.driver.process.home import ensure_home
from meanflow_tune.records import Job, Report

LINE_SECONDS = 10.0


class Printer:
    """A reporter that prints; the first Ctrl-C saves the state and ends."""

    def __init__(self) -> None:
        self.stop = False
        self.last: Report | None = None
        self._printed = time.monotonic()
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._interrupt)

    def _interrupt(self, number: int, frame: object) -> None:
        self.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def report(self, report: Report) -> bool:
        self.last = report
        shown = {k: v for k, v in report.metrics.items() if not k.startswith("loss/")}
        figures = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        print(f"\r{report.images:>12,} images  {figures}", flush=True)
        return True

    def tick(self, progress: dict[str, Any]) -> None:
        """In place on a terminal, else a line every LINE_SECONDS."""
        images = f"{progress['images']:,} / {progress['of']:,}"
        text = f"{progress['phase']} {images}  loss {progress.get('loss', math.nan):.4f}"
        if "free" in progress:  # it waits for disk space
            text = f"{progress['phase']} for {progress['folder']} ({progress['free']})"
        if sys.stderr.isatty():
            print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def fault(self, cause: str, action: str) -> None:
        say(f"\n{cause}; {action}")

    def stopping(self) -> bool:
        return self.stop


def _stored_fault(data: Any) -> str | None:
    """The setting without effect of a configuration before --set; None without any."""
    from meanflow_tune.config import TrialConfig
    from meanflow_tune.config.effects import without_effect

    try:
        return without_effect(TrialConfig.from_dict(data))
    except ValueError:  # --set mends it
        return None


def main(argv: list[str] | None = None, prog: str = "train.py") -> int:
    """Parse, train, print; returns the exit status. prog: how the user called it."""
    arguments = train_parser(prog).parse_args(argv)
    import torch

    from meanflow_tune.config import TrialConfig
    from meanflow_tune.config.effects import without_effect
    from meanflow_tune.files import write_atomic
    from meanflow_tune.plan.request import EXIT_INTERRUPTED, EXIT_UNUSABLE, UserError, usable_folder
    from meanflow_tune.report.commands import called_command
    from meanflow_tune.training.job import Unusable, run_job
    from meanflow_tune.training.memory import memory_shortage
    from meanflow_tune.training.process.freed_memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    try:
        try:
            data = json.loads(arguments.config.read_text())
        except OSError as error:
            raise UserError(f"--config {arguments.config}: {error.strerror}.") from None
        except json.JSONDecodeError as error:
            raise UserError(f"--config {arguments.config}: not JSON ({error}).") from None
        if not isinstance(data, dict):
            raise UserError(
                f"--config {arguments.config}: holds {type(data).__name__}, no settings."
            )
        try:
            config = TrialConfig.from_dict(data, arguments.settings)
        except ValueError as error:
            raise UserError(f"{arguments.config}: {error}") from None
        if fault := without_effect(config):
            if fault != _stored_fault(data):
                raise UserError(f"--set: {fault}")
            print(f"{prog}: note: {fault}", file=sys.stderr)  # stored by an earlier revision
        if config.budget.global_batch % size:
            raise UserError(
                f"budget.global_batch {config.budget.global_batch} must be a multiple of the {size} ranks."
            )
        output = usable_folder(arguments.output, "--output")
        cache = usable_folder(arguments.cache, "--cache")
        device = usable_device(arguments.device)
    except UserError as error:
        say(f"{prog}: {error}")
        return error.status
    if size > 1:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    job = Job("alone", 0, config.to_dict(), str(output), 0, 0)
    printer = Printer()
    if config.compile == "auto" and rank == 0:
        print(f"compile: {config.compile_choice}", flush=True)
    try:
        outcome = run_job(job, rank, size, device, printer, cache=str(cache))
    except (ValueError, OSError, Unusable) as error:
        say(f"\n{prog}: {error}")
        return EXIT_UNUSABLE
    except (RuntimeError, MemoryError) as error:
        if memory_shortage(error) is None:
            raise
        say(f"\n{prog}: out_of_memory: {error}")
        return 1
    if printer.last is not None:
        write_atomic(output / "metrics.json", json.dumps(printer.last.metrics, indent=1))
    if outcome.status == "completed":
        if rank == 0:
            print(f"model and metrics are in {output}")
        return 0
    again = ""
    if outcome.status == "running":
        again = f". Resume with:\n  {called_command(sys.argv)}"
    say(f"\n{prog}: {outcome.status}: {outcome.reason}{again}")
    return EXIT_INTERRUPTED if outcome.status == "running" else 1


def run_process(argv: list[str] | None = None, prog: str = "train.py") -> NoReturn:
    """`main` as a process of its own, maybe one rank of several."""
    steady_output()
    ensure_home()
    outlive_terminal()
    status = main(argv, prog)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        from meanflow_tune.training.world import end_rank

        end_rank(status)
    sys.exit(status)
