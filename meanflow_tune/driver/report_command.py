"""The command `report`: a study as report.html, once or again and again while its search runs."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from meanflow_tune.driver.cli import make_parser, whole
from meanflow_tune.driver.output import say, steady_output
from meanflow_tune.driver.sample_command import Interruption
from meanflow_tune.plan.request import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNUSABLE,
    STORAGE,
    UserError,
    usable_folder,
)
from meanflow_tune.remote.arguments import storage_path
from meanflow_tune.remote.location import UnusableRemote

if TYPE_CHECKING:
    from meanflow_tune.report.page.study_view import StudyView

MOST_STUDIES = 4

REPORT_DESCRIPTION = """Write the report of a study: one HTML file with the answer, samples and charts.
It opens from disk, without a network. Reads the study only, also while its search runs."""
REPORT_EXAMPLES = """examples:
  python scripts/report.py                                    the only study in runs/, to its report.html
  python scripts/report.py --study second_order --watch       written again while the search runs
  python scripts/report.py --study first --study second --out both.html      compare, on the same latents
  python scripts/report.py --study second_order --figures figures            each chart as .png and .svg

exit status: 0 written; 2 bad usage, or no such study; 5 study not readable or output not writable;
130 interrupted: the last whole file stays"""


def report_parser(prog: str = "report.py") -> argparse.ArgumentParser:
    """The command line of report.py."""
    p = make_parser(prog, REPORT_DESCRIPTION, REPORT_EXAMPLES)
    p.add_argument(
        "--study",
        action="append",
        default=[],
        metavar="NAME",
        help="a study in DIR; given again: compare it with the first (default: the only one)",
    )
    p.add_argument(
        "--storage",
        type=str,
        default=str(STORAGE),
        metavar="DIR",
        help="folder of studies and teachers, or its URL (default: %(default)s)",
    )
    p.add_argument(
        "--study-storage",
        default=os.environ.get("OPTUNA_STORAGE"),
        metavar="URL",
        help="an Optuna database URL (default: OPTUNA_STORAGE, else what the study says)",
    )
    p.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page, .html (default: report.html in the folder of the first study)",
    )
    p.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="also write each chart and the samples for papers, as .png and .svg",
    )
    p.add_argument(
        "--watch",
        action="store_true",
        help="write the page again until the search ends or Ctrl-C; the page reloads itself meanwhile",
    )
    p.add_argument(
        "--every",
        type=whole(1),
        default=20,
        metavar="SECONDS",
        help="with --watch: seconds between two writes (default: %(default)s)",
    )
    return p


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
    from meanflow_tune.driver.handling.remote_study import fetch_studies

    try:
        storage = storage_path(arguments.storage)
    except UnusableRemote as error:
        raise UserError(f"--storage {error}.") from None
    fetch_studies(storage, arguments.study)
    folders = study_folders(storage, arguments.study)
    figures = None
    if arguments.figures is not None:
        figures = usable_folder(arguments.figures, "--figures")

    from meanflow_tune.report.page.page_files import write_figures, write_page
    from meanflow_tune.report.page.study_view import open_study_view

    def views() -> "list[StudyView]":
        fetch_studies(storage, [folder.name for folder in folders])
        return [open_study_view(folder, arguments.study_storage) for folder in folders]

    found = views()
    path = page_path(arguments.out, folders[0])
    progress = SectionProgress()

    def write(with_figures: bool) -> None:
        interruption.check()
        sections = write_page(path, found, progress=progress.at, check=interruption.check)
        if figures is not None and with_figures:
            progress.at("figures")
            try:
                write_figures(figures, sections)
            except OSError as error:
                raise OSError(error.errno, error.strerror or str(error), str(figures)) from error
        progress.end()

    write(with_figures=True)
    if figures is not None:
        print(f"charts and samples as .png and .svg: {figures}")
    if not arguments.watch:
        print(f"report of {', '.join(view.name for view in found)}: {path}")
        return EXIT_OK
    print(f"{path}: written again every {arguments.every} s; Ctrl-C ends it", flush=True)
    told, watched = "", False
    while any(view.running for view in found):
        watched = True
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
    if figures is not None and watched:
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
