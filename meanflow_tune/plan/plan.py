"""The plan of a search: a request resolved and checked, before any lease is taken and before Ray starts."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from meanflow_tune.config import TrialConfig
from meanflow_tune.config.effects import without_effect
from meanflow_tune.config.overrides import flatten
from meanflow_tune.plan.derived_seeds import Seeds, seeds_of
from meanflow_tune.plan.request import EXIT_UNUSABLE, EXIT_USAGE, SearchRequest, UserError
from meanflow_tune.plan.space_rules import (
    check_config,
    check_repeatable,
    check_rules,
    ramps_end_of,
)
from meanflow_tune.plan.yardstick import Yardstick
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.objectives import Objectives, SearchObjective
from meanflow_tune.search.pruning.rules import Rungs
from meanflow_tune.search.samplers.limits import check_sampler
from meanflow_tune.search.space.draws import AnyTrial, draw_fixed, draw_random
from meanflow_tune.search.space.load import Space, load_space
from meanflow_tune.search.store.manifest import MANIFEST_NAME

log = logging.getLogger(__name__)

DRAWS = 24


@dataclass(frozen=True)
class Plan:
    """What a search will do. `suggest` gives the resolved configuration of a trial as data.

    independent: parameters that the sampler draws independently of all others and of the results.
    seeds: those that follow from the request's; None in a study of an earlier revision.
    """

    request: SearchRequest
    space: Space
    objectives: Objectives
    suggest: Callable[[AnyTrial], dict[str, Any]]
    examples: tuple[TrialConfig, ...]
    data_fingerprint: str
    rungs: Rungs | None
    independent: tuple[str, ...] = ()
    seeds: Seeds | None = None

    def ramps_end(self, config: Mapping[str, Any]) -> float:
        """The progress before which the trial of a resolved configuration is not stopped; 0 without a
        rule of the space."""
        try:
            return ramps_end_of(self.space, TrialConfig.from_dict(config))
        except ValueError as error:  # of a rare branch: no example showed it
            log.warning("a trial is judged without regard to its ramps: %s", error)
            return 0.0

    @property
    def objective(self) -> SearchObjective:
        """The objective, the first where there are several."""
        return self.objectives.parts[0]


def make_plan(request: SearchRequest) -> Plan:
    """Load the space, apply the request's settings, and try every baseline and some random draws.

    Raises UserError with one line that names the setting, its value and the remedy.
    """
    with _refusing(f"--space {request.space}: "):
        space = load_space(request.space)
    objectives = Objectives.of(space.objective)
    if request.objectives is not None:
        with _refusing("--objectives: "):
            objectives = Objectives.parse(request.objectives)

    rungs = make_rungs(request)
    if rungs is not None:
        with _refusing():
            rungs.check(objectives.directions)

    seeds = _seeds(request)

    def seeded(config: object) -> dict[str, Any]:
        check_config(config)
        assert isinstance(config, TrialConfig)
        return (config if seeds is None else seeds.apply(config)).to_dict()

    def suggest(trial: AnyTrial) -> dict[str, Any]:
        plain = seeded(space.suggest(trial))
        if not request.settings:
            return plain
        return TrialConfig.from_dict(plain, request.settings).to_dict()

    with _refusing(f"--space {request.space}: "):
        baselines = [draw_fixed(space.suggest, params) for params in space.baselines.values()]
        drawn = [draw_random(space.suggest, seed) for seed in range(DRAWS)]
        plain = [seeded(one.config) for one in (*baselines, *drawn)]
        check_repeatable(space.suggest, (*baselines, *drawn))
    _refuse_searched(request, plain)
    with _refusing():
        independent = check_sampler(
            request.sampler,
            len(objectives.parts),
            [one.distributions for one in baselines],
            [one.distributions for one in drawn],
        )
        examples = tuple(TrialConfig.from_dict(data, request.settings) for data in plain)
    yardstick = _yardstick(request, objectives, examples)
    with _refusing(f"--space {request.space}: "):
        check_rules(space, examples, yardstick.check)
    if request.resume == "fresh" or not (request.folder / MANIFEST_NAME).exists():
        _refuse_without_effect(request, plain, examples)
    for config in examples:
        _check_against_objectives(config, objectives)
        batch = config.budget.global_batch
        if batch % request.workers_per_trial:
            raise UserError(
                f"--workers-per-trial {request.workers_per_trial}: budget.global_batch {batch} must "
                "be a multiple of it."
            )
    if request.trials < len(space.baselines):
        raise UserError(
            f"--trials {request.trials}: the space has {len(space.baselines)} baselines, which are "
            f"always run; ask for at least {len(space.baselines)}."
        )
    with _refusing("data: ", EXIT_UNUSABLE, OSError):
        data = examples[0].data.load()
    kinds = {m.kind for c in examples if c.evaluation is not None for m in c.evaluation.metrics}
    if data.classes is None and "frechet_features" in kinds:
        raise UserError(
            "evaluation.metrics: frechet_features needs a classifier of labelled data, but data has "
            "no labels; leave that metric out, or take labelled data."
        )
    trained = [part for c in examples for part in (c, c.teacher) if part is not None]
    if data.classes is None and any(part.label_dropout > 0.0 for part in trained):
        raise UserError(
            "label_dropout and guidance need data with labels, but data has none; set them to 0 and "
            "null, or take labelled data."
        )
    guarded = yardstick.guard(suggest)
    given = request, space, objectives, guarded, examples, data.fingerprint, rungs
    return Plan(*given, independent, seeds)


@contextmanager
def _refusing(
    prefix: str = "", status: int = EXIT_USAGE, also: type[Exception] = ValueError
) -> Iterator[None]:
    """Turns a ValueError, or another kind of error, into a UserError."""
    try:
        yield
    except (ValueError, also) as error:
        raise UserError(f"{prefix}{error}", status) from None


def _seeds(request: SearchRequest) -> Seeds | None:
    try:
        return seeds_of(request)
    except StorageError as error:
        raise UserError(str(error), EXIT_UNUSABLE) from None


def make_rungs(request: SearchRequest) -> Rungs | None:
    """The early stopping that a request asks for; None for none."""
    if request.scheduler == "none":
        return None
    return Rungs(
        kind=request.scheduler,
        reduction=request.reduction,
        grace=request.grace,
        brackets=request.brackets,
        promotion=request.promotion,
        protect=request.protect,
    )


def _yardstick(
    request: SearchRequest, objectives: Objectives, examples: Sequence[TrialConfig]
) -> Yardstick:
    """What the objectives measure with; refused where it varies between the examples."""
    plain = [config.to_dict() for config in examples]
    found = Yardstick(plain[0], objectives)
    with _refusing(f"--space {request.space}: "):
        for config in plain:
            found.check(config)
    return found


def _refuse_without_effect(
    request: SearchRequest, plain: list[dict[str, Any]], examples: Sequence[TrialConfig]
) -> None:
    """Settings of the space without effect in any example, and those of --set without effect in all.

    Of --set a setting may belong to some trials only, such as x_source to those whose loss looks at x_s.
    """
    faults = [without_effect(config) for config in examples]
    for fault, data in zip(faults, plain, strict=True):
        if fault is not None and without_effect(TrialConfig.from_dict(data)) is not None:
            raise UserError(f"--space {request.space}: {fault}")
    if None not in faults:
        raise UserError(f"--set: {faults[0]}")


def _check_against_objectives(config: TrialConfig, objectives: Objectives) -> None:
    evaluation = config.evaluation
    known = []
    if evaluation is not None:
        known = [f"{metric.name}@{nfe}" for metric in evaluation.metrics for nfe in evaluation.nfe]
    missing = [name for name in objectives.metrics if name not in known]
    if missing:
        raise UserError(
            f"the objective {objectives} needs {', '.join(missing)}, but evaluation measures "
            f"{'only ' + ', '.join(known) if known else 'nothing'}; change evaluation.nfe or "
            "evaluation.metrics."
        )


def _refuse_searched(request: SearchRequest, plain: list[dict[str, Any]]) -> None:
    """Fixing a setting that the space searches would leave a dead parameter to the sampler."""
    for setting in request.settings:
        path = setting.partition("=")[0].strip()
        values = {
            json.dumps(
                [value for key, value in flatten(data).items() if f"{key}.".startswith(f"{path}.")]
            )
            for data in plain
        }
        if len(values) > 1:
            raise UserError(
                f"--set {setting}: the space {request.space} searches `{path}`, so fixing it would "
                "leave its parameters without effect; copy the space's file, fix it there, and give "
                "the copy to --space."
            )
