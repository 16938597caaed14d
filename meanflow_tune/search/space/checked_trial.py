"""The trial that a space's `suggest` gets: it refuses what a study, a sampler or a table cannot hold.

Optuna accepts more than can be read back: a list as a choice comes back as another list, a numpy integer
stops the journal in the middle of a search. Each refusal is one line with the parameter, the value and
the remedy.
"""

import json
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias, cast

from optuna.trial import BaseTrial

AnyTrial: TypeAlias = BaseTrial
Domain: TypeAlias = tuple[Any, ...]  # the choices, or the range with its step and scale

LONGEST_NAME = 250  # MLflow's limit of a key
LONGEST_CHOICE = 500  # characters; MLflow's limit of a value is that of a whole row
LARGEST_WHOLE = 2**53  # above it a sampler, which works on floats, confuses neighbours
PLAIN = (type(None), bool, int, float, str)
# They would write into the study, or judge a trial, in the middle of a draw.
REFUSED = ("report", "should_prune", "set_constraint", "set_system_attr")
BY_TEXT = "name it by a short text, and look it up in a dict of the space"


def checked(trial: AnyTrial) -> AnyTrial:
    """The trial, where each `suggest_...` checks its arguments and names the parameter in its errors."""
    return cast(AnyTrial, trial if isinstance(trial, _CheckedTrial) else _CheckedTrial(trial))


class _CheckedTrial:
    def __init__(self, trial: AnyTrial) -> None:
        self._trial = trial
        self._asked: dict[str, Domain] = {}  # of this draw

    def __getattr__(self, method: str) -> Any:
        if method in REFUSED:
            raise AttributeError(f"suggest must not call trial.{method}: it only draws parameters")
        found = getattr(self._trial, method)
        if method == "set_user_attr":
            return _plain_attr(found)
        return self._naming(method, found) if method.startswith("suggest_") else found

    def _naming(self, method: str, found: Callable[..., Any]) -> Callable[..., Any]:
        def suggest(name: str, *args: Any, **kwargs: Any) -> Any:
            check_name(name)
            try:
                if method in _CHECKS:
                    self._refuse_another_domain(name, _CHECKS[method](*args, **kwargs))
                value = found(name, *args, **kwargs)
            except (ValueError, TypeError) as error:
                text, named = str(error), f"parameter {name!r}"
                unnamed = f"'{name}'" not in text and f'"{name}"' not in text
                raise ValueError(f"{named}: {text}" if unnamed else text) from error
            return value

        return suggest

    def _refuse_another_domain(self, name: str, now: Domain) -> None:
        if self._asked.setdefault(name, now) != now:
            raise ValueError(
                "it is asked for twice in one draw with different ranges or choices, of which only the"
                " first would count; use two names"
            )


def check_name(name: object, of: str = "parameter") -> None:
    """Raise ValueError unless a study, a table and MLflow can hold the name of a parameter."""
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
        raise ValueError(
            f"the name of a {of} must be a text of 1 to {LONGEST_NAME} characters, but is {shown(name)}"
        )
    if not name.isprintable():  # neither are surrogates, NUL and line breaks
        raise ValueError(
            f"the name of a {of} must consist of printable characters, but is {name!r}"
        )


def check_choices(choices: object) -> Domain:
    """Raise ValueError unless all choices survive JSON as they are and differ from each other."""
    if not isinstance(choices, Sequence):
        raise ValueError(
            f"its choices must be a list or a tuple, which have an order, but are {shown(choices)}"
        )
    if not choices:
        raise ValueError("its choices are empty; give at least one")
    for index, choice in enumerate(choices):
        if fault := choice_fault(choice):
            raise ValueError(f"the choice {shown(choice)} {fault}")
        same = next((one for one in choices[:index] if one == choice), _NONE)
        if same is not _NONE:
            raise ValueError(
                f"the choices {same!r} and {choice!r} are equal to each other; leave one out"
            )
    return tuple(choices)


_NONE = object()


def choice_fault(choice: object) -> str:
    """Why a value cannot be a choice; empty if it can."""
    kind: type = type(choice)
    if kind not in PLAIN and isinstance(choice, Real):
        made = "int" if isinstance(choice, Integral) else "float"
        return f"is of type {_kind(choice)}, which JSON cannot hold; write {made}(...) around it"
    if kind not in PLAIN:
        return (
            f"is of type {_kind(choice)}, which does not come back from JSON as it was; {BY_TEXT}"
        )
    if isinstance(choice, float) and not math.isfinite(choice):
        return f"is not a finite number; use None or a text, such as {str(choice)!r}"
    if type(choice) is int and abs(choice) > LARGEST_WHOLE:
        return f"is beyond 2**53, so that tables cannot hold it exactly; {BY_TEXT}"
    if isinstance(choice, str):
        if len(choice) > LONGEST_CHOICE:
            return f"has {len(choice):,} characters, more than {LONGEST_CHOICE}; {BY_TEXT}"
        if not is_utf8(choice):
            return f"holds a NUL or is not valid Unicode, so that no file can hold it; {BY_TEXT}"
    return ""


def check_float_range(
    low: object, high: object, *, step: object = None, log: object = False
) -> Domain:
    """Raise ValueError unless the range of a number is finite and in order, and its step divides it."""
    _check_ends(low, high)
    if step is not None:
        _check_step(step, log)
        _check_divides(cast(float, low), cast(float, high), cast(float, step))
    return low, high, step, log


def check_int_range(low: object, high: object, *, step: object = 1, log: object = False) -> Domain:
    """Raise ValueError unless the range of a whole number can be drawn from exactly."""
    _check_ends(low, high)
    for end in (low, high):
        value = cast(float, end)
        if value != int(value):
            raise ValueError(
                f"the end {end} of its range is no whole number; take one, or suggest_float"
            )
        if abs(value) > LARGEST_WHOLE:
            raise ValueError(
                f"the end {end} of its range is beyond 2**53, above which a sampler confuses neighbouring"
                " whole numbers; take a smaller range, or search its logarithm"
            )
    _check_step(step, log and step != 1)
    _check_divides(cast(float, low), cast(float, high), cast(float, step))
    return low, high, step, log


def _check_ends(low: object, high: object) -> None:
    for end in (low, high):
        if not isinstance(end, Real) or isinstance(end, bool):
            raise ValueError(f"the end {shown(end)} of its range is no number; give a number")
        if not math.isfinite(end):
            raise ValueError(f"the end {end} of its range is not finite; give a finite number")


def _check_step(step: object, log: object) -> None:
    number = isinstance(step, Real) and not isinstance(step, bool)
    if not number or not 0 < cast(float, step) < math.inf:
        raise ValueError(f"its step must be a number above 0, but is {shown(step)}")
    if log:
        raise ValueError(f"log and a step of {step} exclude each other; leave one out")


def _check_divides(low: float, high: float, step: float) -> None:
    """Optuna would shorten the range, with a warning per draw."""
    steps = (high - low) / step
    if steps >= 0 and abs(steps - round(steps)) > 1e-8 * max(1.0, steps):
        nearest = f"{low + math.floor(steps) * step:.12g}"
        raise ValueError(
            f"its step {step:g} does not divide the range {low:g} to {high:g}; end it at {nearest}, or"
            " change the step"
        )


# Optuna's deprecated methods are not among them; it checks those itself.
_CHECKS: dict[str, Callable[..., Domain]] = {
    "suggest_categorical": check_choices,
    "suggest_float": check_float_range,
    "suggest_int": check_int_range,
}


def _plain_attr(found: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    def set_user_attr(key: str, value: Any) -> None:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"trial.set_user_attr({key!r}): {error}; give JSON data") from error
        found(key, value)

    return set_user_attr


def _kind(value: object) -> str:
    module = type(value).__module__
    return type(value).__name__ if module == "builtins" else f"{module}.{type(value).__name__}"


def shown(value: object) -> str:
    """The value for a message, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # of any class of a user
        text = f"<{_kind(value)}>"
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_utf8(text: str) -> bool:
    """Whether a file and a database can hold a text."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
