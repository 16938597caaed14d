"""What a space may ask a trial for: all else is refused in one line that names the parameter."""

import enum
import math
import warnings
from typing import Any

import numpy as np
import optuna
import pytest

from meanflow_tune.search.errors import SpaceError
from meanflow_tune.search.space.draws import draw_fixed, draw_random


class Kind(enum.StrEnum):
    A = "a"


def asking(method: str, *args: Any, **kwargs: Any) -> Any:
    return lambda trial: {"p": getattr(trial, method)("p", *args, **kwargs)}


CHOICES: list[tuple[Any, str]] = [
    ([[1, 2], [3]], r"the choice \[1, 2\] is of type list, .* look it up in a dict"),
    ([(1, 2), (3,)], r"the choice \(1, 2\) is of type tuple"),
    ([{"a": 1}, {"a": 2}], r"the choice \{'a': 1\} is of type dict"),
    ([np.int64(1), 2], r"is of type numpy.int64, .* write int\(\.\.\.\)"),
    ([np.float32(1), 2.0], r"is of type numpy.float32, .* write float\(\.\.\.\)"),
    ([np.float64(1), 2.0], r"is of type numpy.float64, .* write float\(\.\.\.\)"),
    ([np.bool_(True)], r"is of type numpy.bool"),
    ([Kind.A], "is of type .*Kind"),
    ([math.nan, 1], "the choice nan is not a finite number; use None or a text"),
    ([-math.inf, 1], "the choice -inf is not a finite number"),
    ([1, 1.0], "the choices 1 and 1.0 are equal to each other; leave one out"),
    ([True, 1], "the choices True and 1 are equal"),
    (["a", "b", "a"], "the choices 'a' and 'a' are equal"),
    ([object()], "the choice <object object at .* is of type object"),
    ([2**53 + 1], "the choice 9007199254740993 is beyond 2\\*\\*53"),
    (["\ud800"], "is not valid Unicode"),
    (["a\0b"], "holds a NUL"),
    (["x" * 1_000_000], r"the choice 'x+\.\.\. has 1,000,000 characters, more than 500"),
    ([], "its choices are empty; give at least one"),
    (5, "its choices must be a list or a tuple"),
    ({1, 2}, "its choices must be a list or a tuple, which have an order"),
    (iter([1, 2]), "its choices must be a list or a tuple"),
]


@pytest.mark.parametrize(("choices", "message"), CHOICES, ids=map(str, range(len(CHOICES))))
def test_choices_that_do_not_come_back_are_refused(choices: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=f"parameter 'p': .*{message}"):
        draw_random(asking("suggest_categorical", choices), 0)


@pytest.mark.parametrize("choices", [[None, 1], ["a", 1, None], "abc", (0.5, True), [False, "x"]])
def test_plain_choices_come_back(choices: Any) -> None:
    for seed in range(8):
        assert draw_random(asking("suggest_categorical", choices), seed).config["p"] in choices


RANGES: list[tuple[Any, str]] = [
    (asking("suggest_float", 2, 1), r"`low <= high` must hold, but got \(low=2, high=1\)"),
    (asking("suggest_float", 0, 1, log=True), "`low > 0` must hold"),
    (asking("suggest_float", 0, 1, step=0.3), "step 0.3 does not divide .* 0 to 1; end it at 0.9"),
    (asking("suggest_float", 0, 1, step=-0.1), "its step must be a number above 0, but is -0.1"),
    (asking("suggest_float", 0, 1, step=math.nan), "its step must be a number above 0, but is nan"),
    (asking("suggest_float", 0.1, 1, step=0.1, log=True), "log and a step of 0.1 exclude"),
    (asking("suggest_float", math.nan, 1), "the end nan of its range is not finite"),
    (asking("suggest_float", 0, math.inf), "the end inf of its range is not finite"),
    (asking("suggest_float", "0", 1), "the end '0' of its range is no number"),
    (asking("suggest_float", None, 1), "the end None of its range is no number"),
    (asking("suggest_float", 0), "missing 1 required positional argument: 'high'"),
    (asking("suggest_float", 0, 1, stp=1), "unexpected keyword argument 'stp'"),
    (asking("suggest_int", 2, 1), "`low <= high` must hold"),
    (asking("suggest_int", 0, 10, log=True), "`low >= 1` must hold"),
    (asking("suggest_int", 0, 10, step=3), "step 3 does not divide .* 0 to 10; end it at 9"),
    (asking("suggest_int", 0, 10, step=0), "its step must be a number above 0, but is 0"),
    (asking("suggest_int", 1, 9, step=2, log=True), "log and a step of 2 exclude each other"),
    (asking("suggest_int", 0.5, 10), "the end 0.5 of its range is no whole number"),
    (asking("suggest_int", 0, 2**60), r"the end 1152921504606846976 .* beyond 2\*\*53"),
    (asking("suggest_int", True, 3), "the end True of its range is no number"),
]


@pytest.mark.parametrize(("suggest", "message"), RANGES, ids=lambda value: str(value)[:40])
def test_impossible_ranges_are_refused(suggest: Any, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # Optuna's own line about the first of them is not what is seen
        with pytest.raises(SpaceError, match=f"parameter 'p': .*{message}"):
            draw_random(suggest, 0)


@pytest.mark.parametrize(
    "suggest",
    [
        asking("suggest_float", 0, 1, step=0.1),
        asking("suggest_float", np.float32(0.25), np.float32(1)),
        asking("suggest_int", np.int64(1), np.int64(10), step=3),
        asking("suggest_int", 1, 1),
        asking("suggest_int", 0, 2**53),
        asking("suggest_float", 1e-8, 1, log=True),
    ],
)
def test_possible_ranges_are_drawn_from(suggest: Any) -> None:
    assert draw_random(suggest, 3).params["p"] is not None


@pytest.mark.parametrize("name", [5, None, "", " ", "x" * 251, "a\nb", "a\0b", "\ud800"])
def test_names_that_no_table_can_hold(name: Any) -> None:
    with pytest.raises(SpaceError, match="the name of a parameter must"):
        draw_random(lambda trial: trial.suggest_float(name, 0, 1), 0)


def test_one_name_for_two_ranges_is_refused() -> None:
    def suggest(trial: Any) -> Any:
        return trial.suggest_float("p", 0, 1) + trial.suggest_float("p", 0, 2)

    with pytest.raises(SpaceError, match=r"parameter 'p': it is asked for twice .* use two names"):
        draw_random(suggest, 0)
    draw_random(lambda t: t.suggest_float("p", 0, 1) + t.suggest_float("p", low=0.0, high=1.0), 0)


@pytest.mark.parametrize("method", ["report", "should_prune", "set_constraint", "set_system_attr"])
def test_a_draw_writes_nothing_into_the_study(method: str) -> None:
    with pytest.raises(SpaceError, match=f"suggest must not call trial.{method}"):
        draw_random(lambda trial: getattr(trial, method)("x", 0), 0)


def test_attributes_of_a_trial_are_json() -> None:
    draw_random(lambda trial: trial.set_user_attr("note", {"a": [1]}), 0)
    with pytest.raises(SpaceError, match=r"set_user_attr\('note'\): .*; give JSON data"):
        draw_random(lambda trial: trial.set_user_attr("note", object()), 0)


def test_a_space_that_exits_is_an_error_and_ctrl_c_is_not() -> None:
    def leave(trial: Any) -> None:
        raise SystemExit(3)

    def interrupted(trial: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SpaceError, match=r"it calls sys.exit\(3\)"):
        draw_fixed(leave, {})
    with pytest.raises(KeyboardInterrupt):
        draw_fixed(interrupted, {})


def test_the_rest_of_a_trial_is_as_it_is() -> None:
    def suggest(trial: optuna.Trial) -> Any:
        trial.suggest_float("p", 0, 1)
        return trial.number, dict(trial.params), list(trial.distributions)

    number, params, names = draw_random(suggest, 1).config
    assert (number, list(params), names) == (0, ["p"], ["p"])
