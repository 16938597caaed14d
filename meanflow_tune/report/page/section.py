"""A section of the page, and what stands in its place where it cannot be made."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meanflow_tune.report.page.charts.chart import Chart
from meanflow_tune.report.page.markup import Html, paragraph

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Section:
    """anchor: its id in the page; charts: those in `body`, for files of their own; files: writes what else
    it shows into a folder, and returns the paths."""

    anchor: str
    title: str
    body: Html
    charts: tuple[Chart, ...] = ()
    files: Callable[[Path], list[Path]] | None = None


def guarded(anchor: str, title: str, make: Callable[[], Section]) -> Section:
    """The section, or one that says in a sentence why it is not there."""
    try:
        return make()
    except Exception as error:  # whatever a damaged file or an odd study leads to
        log.debug("the section %s cannot be made", anchor, exc_info=error)
        return Section(anchor, title, missing("This section cannot be made", error))


def missing(what: str, error: BaseException | str) -> Html:
    """`what (why).` in place of something."""
    lines = str(error).strip().splitlines()
    why = lines[0].rstrip(".") if lines else type(error).__name__
    if isinstance(error, BaseException) and not isinstance(error, ValueError):
        why = f"{type(error).__name__}: {why}" if lines else why
    return paragraph(f"{what} ({why}).", class_="missing")
