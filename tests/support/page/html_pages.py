"""Pages of a made-up study with trained trials, as files to open in a browser."""

from dataclasses import replace
from pathlib import Path

from meanflow_tune.report.page.page_files import write_page
from meanflow_tune.search.space.load import load_space
from tests.support.page.page_study import SPACE, page_view, small_study
from tests.support.page.trained_trial import train_trial


def write_trained_page(storage: Path, running: bool = False) -> Path:
    """The page of a study that has a reference and a proposed trial with samples at two rungs, and others
    that ended in all ways."""
    name = next(iter(load_space(SPACE).baselines))
    trained = [train_trial(storage, 0, baseline=name), train_trial(storage, 1)]
    others = [replace(r, number=r.number + 2) for r in small_study(storage / "s")[1:]]
    path = storage / "report.html"
    write_page(path, [page_view(storage / "s", [*trained, *others], running=running)])
    return path
