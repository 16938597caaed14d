"""Trials that a user asks for: parameters of the space, or a whole configuration that it can express."""

import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meanflow_tune.config import TrialConfig
from meanflow_tune.config.overrides import flatten
from meanflow_tune.plan.request import UserError
from meanflow_tune.search.errors import SpaceError, one_line
from meanflow_tune.search.space.distributions import contains, domain_text
from meanflow_tune.search.space.draws import AnyTrial, EdgeTrial, draw
from meanflow_tune.search.space.invert import differences, find_params

CHECKS = 24  # random completions of parameters that are given in part
# They follow from the study's own seed.
SEEDS = ("seed", "teacher.seed", "evaluation.latent_seed")
Suggest = Callable[[AnyTrial], dict[str, Any]]


def read_enqueued(path: Path, suggest: Suggest) -> list[tuple[dict[str, Any], list[str]]]:
    """The trials in a JSON file, as parameters of the space, with notes; `suggest` is the plan's.

    Raises UserError, with the number of the entry where the file is a list of several.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except OSError as error:
        raise UserError(f"--enqueue {path}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--enqueue {path}: it is no JSON ({error}).") from None
    entries = data if isinstance(data, list) else [data]
    if not entries:
        raise UserError(f"--enqueue {path}: the list is empty; give at least one trial.")
    found = []
    for number, entry in enumerate(entries, start=1):
        where = f"--enqueue {path}: " + (f"entry {number}: " if len(entries) > 1 else "")
        try:
            found.append(_params_of(entry, suggest))
        except ValueError as error:
            raise UserError(f"{where}{error}") from None
    return found


def check_params(suggest: Suggest, params: Mapping[str, Any]) -> None:
    """Raise ValueError unless every one of these parameters is asked for, and takes effect, however the
    sampler draws the others.
    """
    for index in range(CHECKS):
        trial = _Completed(params, random.Random(f"enqueue/{index}"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = draw(suggest, trial)
            except SpaceError as error:
                _refuse_outside(params, trial.distributions)
                raise ValueError(one_line(error.__cause__ or error)) from None
        _refuse_outside(params, found.distributions)
        for warning in caught:
            text = " ".join(str(warning.message).split())
            if "out of the range" in text:
                raise ValueError(text.partition(". ")[0])
        if unused := [name for name in params if name not in found.params]:
            _refuse_unused(unused[0], params, suggest)
        if set(found.params) == set(params):  # nothing was drawn
            return


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _params_of(entry: object, suggest: Suggest) -> tuple[dict[str, Any], list[str]]:
    if not isinstance(entry, dict) or not entry:
        raise ValueError(
            "a trial is an object: parameters of the space by name, or a configuration such as best.json"
        )
    if not set(entry) & set(TrialConfig.model_fields):
        check_params(suggest, entry)
        return entry, []
    return _params_of_config(entry, suggest)


def _params_of_config(
    entry: Mapping[str, Any], suggest: Suggest
) -> tuple[dict[str, Any], list[str]]:
    """The parameters with which the space gives a configuration; seeds are the study's own."""
    wanted = flatten(TrialConfig.from_dict(dict(entry)).to_dict())
    params, made = find_params(lambda trial: flatten(suggest(trial)), wanted, ignored=SEEDS)
    left = [path for path in differences(made, wanted) if path not in SEEDS]
    if left:
        raise ValueError(_inexpressible(left, made, wanted))
    other = [path for path in SEEDS if made.get(path) != wanted.get(path)]
    notes = [f"{path} is that of the study, {made.get(path)}" for path in other]
    check_params(suggest, params)
    return params, notes


def _inexpressible(left: Sequence[str], made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    path = left[0]
    more = f" (and {len(left) - 1} more: {', '.join(left[1:4])})" if len(left) > 1 else ""
    return (
        f"the space cannot express this configuration: {path} is {wanted.get(path)!r}, and the trials of"
        f" this study come no nearer than {made.get(path)!r}{more}; change it, or train it by"
        " scripts/train.py --config"
    )


class _Completed(EdgeTrial):
    """A trial with some parameters given; the others are drawn."""

    def __init__(self, params: Mapping[str, Any], source: random.Random) -> None:
        super().__init__(source, 0.0)
        self._params = dict(params)


def _refuse_outside(params: Mapping[str, Any], distributions: Mapping[str, Any]) -> None:
    """A choice that is none, or a number of the wrong kind, which a fixed trial lets pass."""
    for name, value in params.items():
        distribution = distributions.get(name)
        if distribution is None:
            continue
        if not contains(distribution, value):
            raise ValueError(f"parameter {name!r}: {value!r} is not in {domain_text(distribution)}")


def _refuse_unused(name: str, params: Mapping[str, Any], suggest: Suggest) -> None:
    known: set[str] = set()
    for index in range(CHECKS * 4):
        trial = EdgeTrial(random.Random(f"known/{index}"), 0.0)
        try:
            known |= set(draw(suggest, trial).params)
        except SpaceError:
            continue
    if name in known:
        raise ValueError(
            f"parameter {name!r} has no effect for every choice of the others; give those that it depends"
            " on, too"
        )
    raise ValueError(
        f"parameter {name!r} is not in the space; known: {', '.join(sorted(known)) or 'none'}"
    )
