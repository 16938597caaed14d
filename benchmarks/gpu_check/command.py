"""Runs the stages one after another, each in a process of its own that ends by its time limit."""

import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu_check.report import Result, write
from benchmarks.gpu_check.rows import STAGES, TIME_LIMIT, Row, Stage

OK, SOMETHING_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
ROOT = Path(__file__).resolve().parents[2]

# The command line of a stage's process: (stage, device) -> argv.
Program = Callable[[Stage, str], list[str]]
Show = Callable[[str], None]


def program(stage: Stage, device: str) -> list[str]:
    """By this Python, with this checkout."""
    return [sys.executable, "-m", "benchmarks.gpu_check.stage", stage.name, device]


def check_machine(device: str) -> str:
    """The line on the machine; raises ValueError with one line where nothing can be run."""
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"torch is needed, but {sys.executable} has none ({error})") from None
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11):
        raise ValueError(f"torch 2.11 or newer is needed, but this is {torch.__version__}")
    if device != "cpu" and not torch.cuda.is_available():
        why = (
            "this torch is built without CUDA; install a build with it"
            if torch.version.cuda is None
            else "no GPU is visible to torch; see nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
        raise ValueError(
            f"{why}, or use --device cpu for a small version (torch {torch.__version__})"
        )
    from benchmarks.machine import machine

    cuda = "" if device == "cpu" else f", CUDA {torch.version.cuda}"
    return f"{machine(device)}{cuda}"


def check(
    device: str,
    only: Sequence[str],
    folder: Path,
    command: Sequence[str],
    *,
    stages: Sequence[Stage] = STAGES,
    by: Program = program,
    show: Show = lambda line: print(line, file=sys.stderr, flush=True),
    time_limit: float = TIME_LIMIT,
) -> int:
    """Run the stages named by `only` (none: all) and write what they measured after each of them.

    The status is 0 where all held, 1 where something failed or ran out of time, 130 after Ctrl-C.
    Raises ValueError and OSError, before anything runs, for what cannot be done.
    """
    heading = {"machine": check_machine(device), "command": shlex.join(command)}
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [stage for stage in stages if not only or stage.name in only]
    results = [Result(stage) for stage in chosen]
    write(folder, results, heading)
    show(heading["machine"])
    patience = 4.0 if device == "cpu" else 1.0  # the limits are those of a GPU
    end = time.monotonic() + time_limit * patience
    interrupted = False
    for number, result in enumerate(results, 1):
        limit = min(result.stage.limit * patience, end - time.monotonic())
        if limit < 1.0:
            result.error = f"the {time_limit:.0f} s of all stages are used up"
            continue
        show(
            f"[{number}/{len(results)}] {result.stage.name}: {result.stage.about}, at most {limit:.0f} s"
        )
        try:
            _run(result, by(result.stage, device), limit, show)
        except KeyboardInterrupt:
            result.outcome, interrupted = "interrupted", True
        write(folder, results, heading)
        failed = sum(row.failed for row in result.rows)
        show(
            f"      {result.outcome} in {result.seconds:.0f} s, {len(result.rows)} rows"
            + (f", {failed} failed" if failed else "")
            + (f": {result.error}" if result.error else "")
        )
        if interrupted:
            break
    write(folder, results, heading)
    show(f"{folder / 'gpu-check.json'}, {folder / 'gpu-check.md'}")
    if interrupted:
        return INTERRUPTED
    return OK if all(result.good for result in results) else SOMETHING_FAILED


def _run(result: Result, argv: Sequence[str], limit: float, show: Show) -> None:
    """Fill `result` from the lines of a process, which does not outlive this call."""
    began = time.monotonic()
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is ours; compilers of a stage end with it
        )
        assert process.stdout is not None
        lines = _lines(process.stdout)
        try:
            while True:
                try:
                    line = lines.get(timeout=max(0.0, limit - (time.monotonic() - began)))
                except queue.Empty:
                    result.outcome = "out of time"
                    result.error = f"ended after {limit:.0f} s; the rows above were measured before"
                    return
                if line is None:
                    break
                _take(line, result, show)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            result.outcome = "complete" if process.returncode == 0 else "failed"
            if process.returncode != 0 and not result.error:
                result.error = f"status {process.returncode}: {_last_line(errors)}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
            result.seconds = time.monotonic() - began


def _lines(stream: IO[bytes]) -> "queue.Queue[bytes | None]":
    """The lines of a pipe as they come, and None after the last one."""
    found: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        with suppress(ValueError):  # closed, after the process was ended
            for line in stream:
                found.put(line)
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    return found


def _take(line: bytes, result: Result, show: Show) -> None:
    try:
        told: dict[str, Any] = json.loads(line)
    except ValueError:  # written past `stage.main`, by a library
        return
    if "row" in told:
        row = Row.from_dict(told["row"])
        result.rows.append(row)
        if row.failed:
            show(
                f"      FAILED {' '.join(filter(None, (row.network, row.precision, row.case)))}: {row.note}"
            )
    elif "error" in told:
        result.error = str(told["error"])
    elif "progress" in told:
        show(f"      {told['progress']}")


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"
