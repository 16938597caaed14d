"""Writing report.html."""

from collections.abc import Callable, Sequence
from pathlib import Path

from meanflow_tune.files import write_atomic
from meanflow_tune.report.page.charts.paper_charts import write_charts
from meanflow_tune.report.page.document import make_sections, page_html
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.study_view import StudyView

REPORT_NAME = "report.html"


def write_page(
    path: Path,
    views: Sequence[StudyView],
    seconds: float | None = None,
    progress: Callable[[str], None] = lambda title: None,
    check: Callable[[], None] = lambda: None,
) -> list[Section]:
    """Write the page, atomically; returns its sections. The arguments are those of `make_sections`.

    Raises OSError.
    """
    sections = make_sections(views, seconds, progress, check)
    write_atomic(path, page_html(views, sections))
    return sections


def write_figures(folder: Path, sections: Sequence[Section]) -> list[Path]:
    """The charts and samples of sections as .png and .svg. Raises OSError."""
    written = write_charts(folder, [chart for section in sections for chart in section.charts])
    for section in sections:
        if section.files is not None:
            written += section.files(folder)
    return written
