"""A made-up study that the report's page is tested on."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meanflow_tune.config import TrialConfig
from meanflow_tune.plan.findings import find
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Report, Status, TrialRecord
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.search.objectives import Objectives, SearchObjective
from meanflow_tune.search.space.draws import draw_fixed, draw_random
from meanflow_tune.search.space.load import load_space
from tests.support.records import build_record

SPACE = "eight_gaussians"
STUDY = "made-up"
OBJECTIVE = "geometric_mean(teacher_gap@1,teacher_gap@2,teacher_gap@4)"
OBJECTIVES = Objectives.of(SearchObjective.parse(OBJECTIVE))
load = functools.cache(load_space)
RUNGS = (3840, 9600, 19200, 38400)


def page_report(images: int, gap: float) -> Report:
    metrics = {f"teacher_gap@{n}": gap / n for n in (1, 2, 4)}
    metrics |= {f"sliced_wasserstein@{n}": 0.1 + gap / n for n in (1, 2, 4)}
    cost = {"cpu_seconds": images / 1000, "step_ms": 5.0, "wall_seconds": images / 900}
    return Report(images, metrics | {"loss/loss": 1.0}, cost, 1e9 + images)


def page_trial(
    folder: Path,
    number: int,
    gap: float,
    rungs: int = len(RUNGS),
    status: Status = "completed",
    baseline: str | None = None,
    **fields: Any,
) -> TrialRecord:
    """A trial of the space with values that fall towards `gap`."""
    space = load(SPACE)
    params = space.baselines[baseline] if baseline is not None else None
    drawn = (
        draw_fixed(space.suggest, params)
        if params is not None
        else draw_random(space.suggest, number)
    )
    config = TrialConfig.from_dict(drawn.config.to_dict()).to_dict()
    reports = [page_report(images, gap * (2.0 - k / 3)) for k, images in enumerate(RUNGS[:rungs])]
    values = tuple(OBJECTIVES.values(one) for one in reports)
    decisions = tuple(f"place 1 of {k + 1} at this rung" for k in range(rungs))
    given: dict[str, Any] = {
        "study": STUDY,
        "config": config,
        "params": drawn.params,
        "folder": str(folder / "trials" / f"{number:05d}"),
        "rung_values": values,
        "values": values[-1] if values else (),
        "value": values[-1][0] if values else None,
        "decisions": decisions,
        "baseline": baseline,
        "started": 1e9,
        "ended": 1e9 + 100,
    }
    return build_record(number, status, *reports, **(given | fields))


def page_view(
    folder: Path,
    records: Sequence[TrialRecord],
    confirmed: Sequence[TrialRecord] = (),
    running: bool = False,
) -> StudyView:
    """The view of these records."""
    space = load(SPACE)
    request = SearchRequest(space=SPACE, study=STUDY, storage=folder.parent, trials=32)
    plan = Plan(request, space, OBJECTIVES, space.suggest, (), "", None)
    found = find(plan, list(records), list(confirmed))
    return StudyView(plan, found, folder, running=running, made=1e9)


def small_study(folder: Path) -> list[TrialRecord]:
    """Two baselines and five proposed trials that ended in all ways."""
    names = list(load(SPACE).baselines)
    return [
        page_trial(folder, 0, 0.5, baseline=names[0]),
        page_trial(folder, 1, 0.6, baseline=names[-1]),
        page_trial(folder, 2, 0.4),
        page_trial(folder, 3, 0.9, rungs=1, status="pruned", reason="place 4 of 4 at this rung"),
        page_trial(folder, 4, 0.8, rungs=2, status="paused"),
        page_trial(
            folder, 5, 0.7, rungs=1, status="diverged", reason="<b>loss</b> & is not finite"
        ),
        page_trial(folder, 6, 0.7, rungs=0, status="failed", reason="ValueError: no [such] file"),
    ]
