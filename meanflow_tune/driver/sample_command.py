"""The command `sample`: samples of a trained student as a grid or as arrays."""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from meanflow_tune.driver.cli import sample_parser
from meanflow_tune.driver.handling.device import usable_device
from meanflow_tune.driver.output import say, steady_output
from meanflow_tune.driver.process.home import ensure_home
from meanflow_tune.plan.request import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNUSABLE,
    UserError,
    usable_folder,
)

EXIT_MEMORY = 1
TITLE = 36  # letters
PICTURES = (".png", ".svg")
SUFFIXES = (*PICTURES, ".npz")
LINE_SECONDS = 10.0
QUIET_SECONDS = 1.0  # at first: most calls take no longer


class Interruption:
    """Ctrl-C and SIGTERM, also where an import swallows the KeyboardInterrupt (torch's does)."""

    def __init__(self) -> None:
        self.happened = False

    def handle(self, number: int, frame: object) -> None:
        """The signals' handler."""
        self.happened = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt where there was one."""
        if self.happened:
            raise KeyboardInterrupt


class Progress:
    """Samples that are finished, on stderr: in place on a terminal, else a line every LINE_SECONDS."""

    def __init__(self, total: int, interruption: Interruption) -> None:
        self.total, self.done, self._interruption = total, 0, interruption
        self._terminal = sys.stderr.isatty()
        wait = QUIET_SECONDS if self._terminal else LINE_SECONDS
        self._next = time.monotonic() + wait
        self._shown = False

    def at(self, count: int) -> None:
        """`count` samples of the current NFE are finished. Raises KeyboardInterrupt."""
        self._interruption.check()
        if time.monotonic() < self._next:
            return
        text = f"sampled {self.done + count:,} / {self.total:,}"
        self._next = time.monotonic() + (0.2 if self._terminal else LINE_SECONDS)
        self._shown = True
        print(f"\r{text:<50}" if self._terminal else text, end="", file=sys.stderr, flush=True)
        if not self._terminal:
            print(file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._shown and self._terminal:
            print(file=sys.stderr)


def usable_output(path: Path) -> Path:
    """`path`, given by --out, absolute and in a folder that can be written. Raises UserError."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out {path}: must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    path = path.expanduser().absolute()
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; name a file.")
    usable_folder(path.parent, "--out")
    return path


def check_drawable(shape: tuple[int, ...], path: Path) -> None:
    """Raises UserError where samples of `shape` (*D) are neither images nor points of a plane."""
    image = len(shape) == 3 and shape[0] in (1, 3)
    if path.suffix in PICTURES and not (image or shape == (2,)):
        raise UserError(
            f"--out {path}: samples of shape {shape} cannot be drawn; take {path.with_suffix('.npz').name}."
        )


def _title(source: str) -> str:
    """The end of a source, short enough for a grid of one column."""
    text = "/".join(source.rstrip("/").split("/")[-2:])
    return text if len(text) <= TITLE else f"…{text[1 - TITLE :]}"


def _sample(arguments: argparse.Namespace, prog: str, interruption: Interruption) -> int:
    """Raises UserError."""
    out: Path = usable_output(arguments.out)
    device = usable_device(arguments.device)

    import numpy as np
    import torch

    from meanflow_tune.sampling import StudentError, load_student
    from meanflow_tune.training.memory import memory_shortage

    def note(text: str) -> None:
        print(f"{prog}: note: {text}", file=sys.stderr)

    n, nfes = arguments.n, list(dict.fromkeys(arguments.nfe))
    seed, guidance = arguments.seed, arguments.guidance
    progress = Progress(n * len(nfes), interruption)
    try:
        interruption.check()
        student = load_student(arguments.source, device, arguments.tracking_uri, note)
        check_drawable(student.shape, out)
        samples = {}
        for nfe in nfes:
            samples[nfe] = student.sample(nfe, n, arguments.labels, seed, guidance, progress.at)
            progress.done += n
        progress.end()
        interruption.check()
        broken = sum(not np.isfinite(row).all() for x in samples.values() for row in x)
        if broken:
            note(f"{broken} of {progress.total} samples are not finite: this student has diverged")
        if out.suffix in PICTURES:
            from meanflow_tune.report.pictures import SHOWN, comparison_grid

            if len(student.shape) > 1 and n > SHOWN:
                note(f"{out.name} shows the first {SHOWN} of {n} samples; .npz holds all")
            row = "student" if guidance is None else f"guidance {guidance:g}"
            comparison_grid({row: samples}, out, title=_title(arguments.source), most=SHOWN)
        else:
            from meanflow_tune.sampling.sample_files import write_samples

            seeds, labels = student.rows(n, arguments.labels, seed)
            latents = student.latents(torch.tensor(seeds)).numpy()
            write_samples(out, samples, latents, seeds, labels)
    except StudentError as error:
        raise UserError(str(error)) from None
    except ValueError as error:  # it begins with the setting's name
        raise UserError(f"--{error}") from None
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}.", EXIT_UNUSABLE) from None
    except (RuntimeError, MemoryError) as error:
        if memory_shortage(error) is None:
            raise
        raise UserError(f"out of memory with --n {n}; give a smaller one.", EXIT_MEMORY) from None
    steps = ", ".join(str(nfe) for nfe in nfes)
    print(f"{n} samples at NFE {steps}, seeds {seed} to {seed + n - 1}: {out}")
    return EXIT_OK


def main(
    argv: list[str] | None = None,
    prog: str = "sample.py",
    interruption: Interruption | None = None,
) -> int:
    """Parse, sample, write; returns the exit status. prog: how the user called it."""
    arguments = sample_parser(prog).parse_args(argv)
    try:
        return _sample(arguments, prog, interruption or Interruption())
    except UserError as error:
        say(f"{prog}: {error}")
        return error.status
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted; nothing was written.", file=sys.stderr)
        return EXIT_INTERRUPTED


def run_process(argv: list[str] | None = None, prog: str = "sample.py") -> NoReturn:
    """`main` as a process of its own."""
    steady_output()
    ensure_home()
    interruption = Interruption()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interruption.handle)
    sys.exit(main(argv, prog, interruption))
