"""The command `report`: a study as report.html, once or again and again while its search runs."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from meanflow_tune.driver.output import say, steady_output
from meanflow_tune.driver.report_parser import report_parser
from meanflow_tune.driver.sample_command import Interruption
from meanflow_tune.plan.request import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNUSABLE,
    UserError,
    usable_folder,
)

if TYPE_CHECKING:
    from meanflow_tune.report.page.study_view import StudyView

MOST_STUDIES = 4


class SectionProgress:
    """The section that is being made, in place on a terminal; nothing where there is none."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def at(self, title: str) -> None:
        if self._terminal:
            print(f"\r{title[:70]:<72}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal:
            print(f"\r{'':<72}\r", end="", file=sys.stderr, flush=True)


def study_folders(storage: Path, names: list[str]) -> list[Path]:
    """The folders of the named studies, of the only one where none is named. Raises UserError."""
    if not storage.is_dir():
        raise UserError(f"--storage {storage}: there is no such folder.")
    if len(names) > MOST_STUDIES:
        raise UserError(
            f"--study: {len(names)} studies are too many; compare {MOST_STUDIES} at most."
        )
    if doubled := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--study {doubled[0]}: given twice; name each study once.")
    if names:
        return [storage / name for name in names]
    known = sorted(path.parent for path in storage.glob("*/manifest.json"))
    if len(known) != 1:
        listed = ", ".join(path.name for path in known)
        why = f"{storage} holds {listed}" if known else f"{storage} holds no study"
        raise UserError(f"--study: name one; {why}.")
    return known


def page_path(out: Path | None, folder: Path) -> Path:
    """Where the page goes, in a folder that can be written. Raises UserError."""
    path = folder / "report.html" if out is None else out.expanduser().absolute()
    if path.suffix not in (".html", ".htm"):
        raise UserError(f"--out {path}: must end in .html.")
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; name a file.")
    if out is not None:
        usable_folder(path.parent, "--out")
    return path


def _report(arguments: argparse.Namespace, prog: str, interruption: Interruption) -> int:
    """Raises UserError, KeyboardInterrupt and OSError."""
    folders = study_folders(arguments.storage.expanduser().absolute(), arguments.study)
    figures = None
    if arguments.figures is not None:
        figures = usable_folder(arguments.figures, "--figures")

    from meanflow_tune.report.page.page_files import write_figures, write_page
    from meanflow_tune.report.page.study_view import open_study_view

    def views() -> "list[StudyView]":
        return [open_study_view(folder, arguments.study_storage) for folder in folders]

    found = views()
    path = page_path(arguments.out, folders[0])
    progress = SectionProgress()

    def write(with_figures: bool) -> None:
        interruption.check()
        sections = write_page(path, found, progress=progress.at, check=interruption.check)
        if figures is not None and with_figures:
            progress.at("figures")
            write_figures(figures, sections)
        progress.end()

    write(with_figures=True)
    if figures is not None:
        print(f"charts and samples as .png and .svg: {figures}")
    if not arguments.watch:
        print(f"report of {', '.join(view.name for view in found)}: {path}")
        return EXIT_OK
    print(f"{path}: written again every {arguments.every} s; Ctrl-C ends it", flush=True)
    told = ""
    while any(view.running for view in found):
        _wait(arguments.every, interruption.check)
        try:
            now = views()
            if not _same(found, now):
                found = now
                write(with_figures=False)
            told = ""
        except (UserError, OSError) as error:  # of a moment, such as a full disk
            if str(error) != told:
                told = str(error)
                say(f"{prog}: {told} Trying again.")
    if figures is not None:
        write(with_figures=True)
    print(f"no search is running; the report is complete: {path}")
    return EXIT_OK


def _same(before: "list[StudyView]", now: "list[StudyView]") -> bool:
    """Whether a page would say the same, but for the time when it was made."""
    return [view.contents for view in before] == [view.contents for view in now]


def _wait(seconds: float, check: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check()
        time.sleep(min(0.2, seconds))


def main(
    argv: list[str] | None = None,
    prog: str = "report.py",
    interruption: Interruption | None = None,
) -> int:
    """Parse, read, write; returns the exit status. prog: how the user called it."""
    arguments = report_parser(prog).parse_args(argv)
    try:
        return _report(arguments, prog, interruption or Interruption())
    except UserError as error:
        say(f"{prog}: {error}")
        return error.status
    except OSError as error:
        where = error.filename or arguments.out or arguments.storage
        say(f"{prog}: {where}: {error.strerror or error}.")
        return EXIT_UNUSABLE
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted; the last whole report, if any, stays.", file=sys.stderr)
        return EXIT_INTERRUPTED


def run_process(argv: list[str] | None = None, prog: str = "report.py") -> NoReturn:
    """`main` as a process of its own."""
    steady_output()
    interruption = Interruption()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interruption.handle)
    sys.exit(main(argv, prog, interruption))
