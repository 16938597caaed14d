"""What the functions of a space return: `suggest`, RAMPS_END and those of QUESTION.

They are tried on examples before Ray starts: at the first rung, or when the search has ended, a fault in
them would come too late.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from meanflow_tune.config import Question, TrialConfig
from meanflow_tune.search.errors import SpaceError, one_line
from meanflow_tune.search.space.draws import Draw, Suggest, draw_fixed
from meanflow_tune.search.space.load import Space


def check_config(config: object) -> None:
    """Raise SpaceError unless `suggest` returned a configuration."""
    if not isinstance(config, TrialConfig):
        kind = "None" if config is None else f"a value of type {type(config).__name__}"
        if isinstance(config, type):
            kind = f"the class {config.__name__} itself"
        raise SpaceError(f"suggest must return a TrialConfig, but returns {kind}")


def check_repeatable(suggest: Suggest, draws: Sequence[Draw]) -> None:
    """Raise SpaceError where the same parameters give another configuration the second time.

    A sampler would learn from parameters that do not determine their trial, and no trial could be trained
    again.
    """
    for one in draws:
        again = draw_fixed(suggest, one.params).config
        if again == one.config:
            continue
        check_config(again)
        before, now = one.config.flat(), again.flat()
        paths = [path for path in {**before, **now} if before.get(path) != now.get(path)]
        values = f" ({before.get(paths[0])} and {now.get(paths[0])})" if paths else ""
        raise SpaceError(
            f"suggest returns different configurations for the same parameters: `{(paths or ['?'])[0]}`"
            f" differs{values}; let it depend on its trial's parameters alone, not on chance, time or"
            " earlier calls"
        )


def ramps_end_of(space: Space, config: TrialConfig) -> float:
    """The progress before which a trial is not stopped; 0 without a rule. Raises SpaceError."""
    if space.ramps_end is None:
        return 0.0
    try:
        found: object = space.ramps_end(config)
    except Exception as error:  # whatever code of a space may raise
        raise SpaceError(f"RAMPS_END: {_named(error)}") from error
    known = isinstance(found, Real) and not isinstance(found, bool) and math.isfinite(found)
    if not (known and 0.0 <= float(found) <= 1.0):  # type: ignore[arg-type]
        raise SpaceError(f"RAMPS_END returns {found!r:.60}; it must be a progress from 0 to 1")
    return float(found)  # type: ignore[arg-type]


def check_rules(
    space: Space, examples: Sequence[TrialConfig], comparable: Callable[[Mapping[str, Any]], None]
) -> None:
    """Raise SpaceError where a function of the space fails, or returns what it must not, for an example.

    comparable: raises SpaceError for a configuration that is measured with something else.
    """
    for config in examples:
        ramps_end_of(space, config)
    if space.question is None:
        return
    found = [_has_counterpart(space.question, config, comparable) for config in examples]
    if not any(found):
        raise SpaceError(
            "QUESTION: no configuration of the space has a counterpart with or without"
            f" {space.question.factor}; change `without` and `including`, or remove the question"
        )


def _has_counterpart(
    question: Question, config: TrialConfig, comparable: Callable[[Mapping[str, Any]], None]
) -> bool:
    try:
        found = question.check(config)
        other = question.counterpart(config.to_dict()) if found else None
    except ValueError as error:
        raise SpaceError(f"QUESTION: {one_line(error)}") from error
    except Exception as error:  # whatever code of a space may raise
        raise SpaceError(f"QUESTION: {_named(error)}") from error
    if other is not None:
        try:
            comparable(other)
        except SpaceError as error:
            raise SpaceError(f"QUESTION: {error}") from error
    return other is not None


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
