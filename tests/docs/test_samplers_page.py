"""docs/samplers.md: every cell of its table is checked by experiment, so that it cannot go stale.

An experiment compares the next suggestions of a sampler after two histories that differ in one trial: in
its parameters ("place"), its value, whether it is infeasible ("flag"), or by how much ("degree"). The
other trials are completed, mostly pruned, or mostly infeasible, since a sampler may consider some trials
only where it has few others.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from meanflow_tune.search.samplers.cmaes import population_size
from meanflow_tune.search.samplers.factory import SAMPLER_KINDS, SamplerKind, make_sampler
from tests.support.paths import ROOT
from tests.support.sampler_history import LAWS, STARTUP, ask, grid, made, study_of

PAGE = ROOT / "docs" / "samplers.md"
COMPLETE, PRUNED, RUNNING, FAIL = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.RUNNING,
    TrialState.FAIL,
)
BASE, OTHERS = 12, population_size(2)  # told trials, and as many again that the sampler asked for
FAR, NEAR = {"x": 0.9, "y": 0.95}, {"x": 0.05, "y": 0.05}  # of the best of the others


@dataclass(frozen=True)
class Told:
    """The end of one trial.

    value: the final one, or that of the last rung if pruned; second: of another objective, or the same.
    """

    state: TrialState = COMPLETE
    value: float | None = 0.5
    violation: float | None = None
    second: float | None = None
    params: dict[str, float] = field(default_factory=dict)  # instead of its own


def trial_of(
    told: Told, params: dict[str, Any], objectives: int, attrs: dict[str, Any]
) -> FrozenTrial:
    value = told.value
    several = objectives > 1
    return made(
        {**params, **told.params},
        values=[value, told.second or value][:objectives]
        if told.state == COMPLETE and value is not None
        else None,
        state=told.state,
        rungs={10: value} if told.state != COMPLETE and value is not None and not several else None,
        constraints=None if told.violation is None else {"diverged": told.violation},
        attrs=attrs,
    )


def contexts(infeasible: bool) -> Iterator[list[Told]]:
    """The ends of the other trials, by number; with several objectives they form a front."""
    limit = 0.0 if infeasible else None
    values = [0.3 + ((i * 7) % 18) / 20 for i in range(BASE + OTHERS - 1)]
    completed = [Told(COMPLETE, value, limit, second=1.3 - value) for value in values]
    yield completed
    yield [completed[0]] + [replace(told, state=PRUNED) for told in completed[1:]]
    if infeasible:
        for state in (COMPLETE, PRUNED):
            bad = [replace(told, state=state, violation=3.0) for told in completed[1:]]
            yield [completed[0], *bad]


@functools.cache
def own(kind: SamplerKind) -> tuple[tuple[dict[str, Any], dict[str, Any]], ...]:
    """Parameters and attributes of a history whose last trials the sampler proposed itself."""
    points = [grid(i) for i in range(BASE)]
    if kind != "cmaes":
        return tuple((grid(i), {}) for i in range(BASE + OTHERS))
    study = study_of([made(p, [0.3 + p["y"]]) for p in points])
    for i in range(OTHERS):
        ask(study, kind, 0)
        study.tell(BASE + i, 0.5)
    return tuple((t.params, t.system_attrs) for t in study.trials)


def suggestions(
    kind: SamplerKind, objectives: int, others: list[Told], last: Told
) -> Iterator[dict[str, Any]]:
    """Its next suggestions for several search seeds; none is stored in the study."""
    study = study_of(
        [
            trial_of(told, params, objectives, copy.deepcopy(attrs))
            for told, (params, attrs) in zip([*others, last], own(kind), strict=True)
        ],
        objectives,
    )
    number = study.ask().number
    trial = study.trials[number]
    # TPE and NSGA-II take one draw out of many, so that a single seed may hide a difference.
    for seed in range(24 if kind in ("tpe", "nsgaii") else 1):
        sampler = make_sampler(kind, seed, number, STARTUP)
        space = sampler.infer_relative_search_space(study, trial)
        drawn = sampler.sample_relative(study, trial, space)
        rest = [name for name in LAWS if name not in drawn]
        yield drawn | {n: sampler.sample_independent(study, trial, n, LAWS[n]) for n in rest}


def differ(kind: SamplerKind, objectives: int, one: Told, other: Told) -> bool:
    """Whether the next suggestion depends on which of two ends the last trial had."""
    if objectives > 1 and one.state == PRUNED:  # nothing is stored of its rungs
        one, other = replace(one, value=None), replace(other, value=None)
    return any(
        first != second
        for others in contexts(infeasible=one.violation is not None)
        for first, second in zip(
            suggestions(kind, objectives, others, one),
            suggestions(kind, objectives, others, other),
            strict=True,
        )
    )


def learned(kind: SamplerKind, objectives: int, state: TrialState, value: float | None) -> str:
    """What a trial in this state teaches: "place", "value", both, or "nothing"."""
    words = []
    if differ(kind, objectives, Told(state, value, params=FAR), Told(state, value, params=NEAR)):
        words.append("place")
    if value is not None and differ(kind, objectives, Told(state, 0.01), Told(state, 2.0)):
        words.append("value")
    return ", ".join(words) or "nothing"


def learned_of_infeasible(kind: SamplerKind, objectives: int, state: TrialState) -> str:
    def told(violation: float, params: dict[str, float] | None = None) -> Told:
        return Told(state, 0.2, violation, params=params or {})

    words = []
    if differ(kind, objectives, told(1.0, FAR), told(1.0, NEAR)):
        words.append("place")
    if differ(kind, objectives, told(0.0), told(5.0)):
        words.append("flag")
    if differ(kind, objectives, told(1.0), told(5.0)):
        words.append("degree")
    return ", ".join(words) or "nothing"


def modelled(kind: SamplerKind, objectives: int, name: str) -> str:
    """Whether results influence a parameter: `rate`, in branch "a" only, or the categorical one."""
    distributions: dict[str, BaseDistribution] = {
        "x": LAWS["x"],
        "kind": CategoricalDistribution(["a", "b"]),
        "rate": LAWS["y"],
    }

    def suggest(trial: Trial) -> dict[str, Any]:
        x = trial.suggest_float("x", 0.0, 1.0)
        kind = trial.suggest_categorical("kind", ["a", "b"])
        rate = trial.suggest_float("rate", 0.0, 1.0) if kind == "a" else None
        return {"x": x, "kind": kind, "rate": rate}

    def asked(turned: bool, seed: int) -> Any:
        trials = []
        for i in range(16):
            params: dict[str, Any] = {"x": grid(i)["x"], "kind": "ab"[i % 2]}
            if i % 2 == 0:
                params["rate"] = grid(i)["y"]
            part = params.get("rate", 0.5) if name == "rate" else i % 2
            value = 1.0 - part if turned else part
            values = [value, params["x"]][:objectives]
            trials.append(made(params, values, distributions=distributions))
        fixed = {"kind": "a"} if name == "rate" else None
        return ask(study_of(trials, objectives), kind, seed, suggest, fixed)[name]

    seeds = range(3 if kind == "gp" else 12)
    return "yes" if any(asked(False, s) != asked(True, s) for s in seeds) else "no"


COLUMNS: dict[str, Callable[[SamplerKind, int], str]] = {
    "completed": lambda kind, n: learned(kind, n, COMPLETE, 0.5),
    "pruned": lambda kind, n: learned(kind, n, PRUNED, 0.5 if n == 1 else None),
    "infeasible, completed": lambda kind, n: learned_of_infeasible(kind, n, COMPLETE),
    "infeasible, pruned": lambda kind, n: learned_of_infeasible(kind, n, PRUNED),
    "running": lambda kind, n: learned(kind, n, RUNNING, None),
    "failed": lambda kind, n: learned(kind, n, FAIL, None),
    "in some trials only": lambda kind, n: modelled(kind, n, "rate"),
    "categorical": lambda kind, n: modelled(kind, n, "kind"),
}


def table() -> dict[tuple[str, int], dict[str, str]]:
    """(sampler, objectives) -> column -> cell of the page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    start = next(i for i, row in enumerate(cells) if row[:2] == ["sampler", "objectives"])
    head = cells[start]
    rows = {}
    for row in cells[start + 2 :]:  # below the line of dashes
        if len(row) != len(head):
            break
        rows[row[0].strip("`"), {"one": 1, "several": 2}[row[1]]] = dict(
            zip(head[2:], row[2:], strict=True)
        )
    return rows


def marks(kind: SamplerKind, objectives: int) -> list[pytest.MarkDecorator]:
    quick = kind == "cmaes" or (objectives == 1 and kind not in ("gp", "nsgaii"))
    return [] if quick else [pytest.mark.slow]


ROWS = [
    pytest.param(kind, objectives, marks=marks(kind, objectives))
    for kind in SAMPLER_KINDS
    for objectives in (1, 2)
]


@pytest.mark.parametrize(("kind", "objectives"), ROWS)
def test_a_row_agrees_with_experiments(kind: SamplerKind, objectives: int) -> None:
    row = table()[kind, objectives]
    assert list(row) == list(COLUMNS)
    if (kind, objectives) == ("cmaes", 2):
        assert set(row.values()) == {"refused"}  # tests/search/samplers/test_limits.py
        return
    assert row == {name: find(kind, objectives) for name, find in COLUMNS.items()}


def test_the_page_has_every_sampler() -> None:
    assert set(table()) == {(param.values[0], param.values[1]) for param in ROWS}
