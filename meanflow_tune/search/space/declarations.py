"""What a space declares besides `suggest`: GOAL, OBJECTIVE, BASELINES and the optional names, checked.

Each function takes what the module holds and the path of its file, for the message of its SpaceError.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from meanflow_tune.config import Question, TrialConfig
from meanflow_tune.search.errors import SpaceError
from meanflow_tune.search.objectives import SearchObjective
from meanflow_tune.search.space.checked_trial import check_name, choice_fault, is_utf8, shown

LONGEST_GOAL = 2000  # MLflow stores it as text beside others


def goal(goal: object, path: Path) -> str:
    if not isinstance(goal, str) or not goal.strip():
        raise SpaceError(
            f"GOAL of search space {path} must state the question of the study in a sentence"
        )
    if len(goal) > LONGEST_GOAL or not is_utf8(goal):
        raise SpaceError(
            f"GOAL of search space {path} must be valid Unicode of at most {LONGEST_GOAL:,} characters"
        )
    return goal


def objective(objective: object, path: Path) -> SearchObjective:
    if isinstance(objective, SearchObjective):
        return objective
    if not isinstance(objective, str):
        raise SpaceError(f"OBJECTIVE of search space {path} must be text or a SearchObjective")
    try:
        return SearchObjective.parse(objective)
    except ValueError as error:
        raise SpaceError(f"OBJECTIVE of search space {path}: {error}") from error


def baselines(given: object, path: Path) -> dict[str, dict[str, Any]]:
    """BASELINES as JSON data, which is what a study stores of them."""
    where = f"BASELINES of search space {path}"
    if not isinstance(given, Mapping):
        raise SpaceError(f"{where} must map names to parameters")
    try:
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(given))
    except (TypeError, ValueError, RecursionError) as error:
        raise SpaceError(f"{where} must be JSON data: {error}") from error
    for name, params in given.items():
        try:
            check_name(name, "baseline")
            if not isinstance(params, Mapping):
                raise ValueError(f"{name!r} must map parameters to values, but is {shown(params)}")
            for param in params:
                check_name(param)
        except ValueError as error:
            raise SpaceError(f"{where}: {error}") from error
    for name, params in plain.items():
        for param, value in params.items():
            if fault := choice_fault(value):
                raise SpaceError(
                    f"{where}: {name!r}: the value {shown(value)} of {param!r} {fault}"
                )
    return plain


def reference(module: ModuleType, path: Path) -> tuple[str, ...]:
    found = _names(
        getattr(module, "REFERENCE", module.BASELINES), f"REFERENCE of search space {path}"
    )
    unknown = [name for name in found if name not in module.BASELINES]
    if unknown:
        raise SpaceError(
            f"REFERENCE of search space {path} names {unknown}, which are no BASELINES"
        )
    return found


def _names(given: object, where: str) -> tuple[str, ...]:
    """Names in a list or tuple, or the keys of a mapping. Raises SpaceError for anything else."""
    several = isinstance(given, Iterable) and not isinstance(given, str)
    names = tuple(given) if isinstance(given, Iterable) and several else ()
    if not several or not all(isinstance(name, str) for name in names):
        raise SpaceError(f"{where} must be a list of names, but is {shown(given)}")
    return names


def families(module: ModuleType, path: Path) -> dict[str, tuple[str, ...]]:
    default = {"reference": reference(module, path)} if hasattr(module, "REFERENCE") else {}
    given = getattr(module, "FAMILIES", default)
    if not isinstance(given, Mapping):
        raise SpaceError(f"FAMILIES of search space {path} must map names to names of BASELINES")
    where = f"FAMILIES of search space {path}"
    found = {str(name): _names(members, f"{where}: {name}") for name, members in given.items()}
    named = [member for members in found.values() for member in members]
    unknown = [name for name in named if name not in module.BASELINES]
    twice = sorted({name for name in named if named.count(name) > 1})
    if unknown or twice:
        raise SpaceError(
            f"FAMILIES of search space {path}: {', '.join(unknown or twice)} "
            f"{'is no BASELINE' if unknown else 'is in two families'}"
        )
    alone = {name: (name,) for name in module.BASELINES if name not in named}
    if clash := [name for name in alone if name in found]:
        raise SpaceError(
            f"FAMILIES of search space {path}: {', '.join(clash)} is also the name of a baseline that "
            "is in no family"
        )
    return found | alone


def sources(
    module: ModuleType, path: Path, families: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    given = getattr(module, "SOURCES", {})
    if not isinstance(given, Mapping) or not all(isinstance(text, str) for text in given.values()):
        raise SpaceError(f"SOURCES of search space {path} must map names of families to text")
    if unknown := [str(name) for name in given if name not in families]:
        raise SpaceError(f"SOURCES of search space {path} names {unknown}, which are no families")
    return {str(name): text for name, text in given.items()}


def question(
    module: ModuleType, path: Path, families: Mapping[str, tuple[str, ...]]
) -> Question | None:
    asked = getattr(module, "QUESTION", None)
    if asked is None:
        return None
    if not isinstance(asked, Question):
        raise SpaceError(f"QUESTION of search space {path} must be a meanflow_tune.config.Question")
    texts = asked.text, asked.factor
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise SpaceError(f"QUESTION of search space {path} needs a text and the name of a factor")
    if not (callable(asked.without) and callable(asked.including)):
        raise SpaceError(
            f"QUESTION of search space {path}: without and including must be functions of a TrialConfig"
        )
    if not isinstance(asked.families, Mapping):
        raise SpaceError(f"QUESTION of search space {path}: families must map names to names")
    pairs = asked.families.items()
    if unknown := [name for pair in pairs for name in pair if name not in families]:
        raise SpaceError(f"QUESTION of search space {path} names {unknown}, which are no families")
    return asked


def ramps_end(module: ModuleType, path: Path) -> Callable[[TrialConfig], float] | None:
    rule = getattr(module, "RAMPS_END", None)
    if rule is not None and not callable(rule):
        raise SpaceError(f"RAMPS_END of search space {path} must be a function of a TrialConfig")
    return rule
