"""What a space asks for and when, of spaces whose answers can be read off their source."""

from typing import Any

import pytest
from optuna import Trial

from meanflow_tune.search.errors import SpaceError
from meanflow_tune.search.space.describe import find_parameters
from meanflow_tune.search.space.distributions import domain_text
from meanflow_tune.search.space.load import load_space


def conditions(suggest: Any, baselines: dict[str, dict[str, Any]] | None = None) -> dict[str, str]:
    return {p.name: p.condition for p in find_parameters(suggest, baselines or {})}


def test_a_chain_of_choices_is_told_by_its_last_link() -> None:
    def suggest(trial: Trial) -> None:
        if trial.suggest_categorical("outer", [False, True]):
            family = trial.suggest_categorical("family", ["plain", "beta", "gap"])
            if family in ("beta", "gap"):
                trial.suggest_float("a", 0.5, 2.0)
                trial.suggest_float("b", 0.5, 2.0)
        trial.suggest_float("rate", 1e-3, 1e-2)

    assert conditions(suggest) == {
        "outer": "",
        "family": "if outer is True",
        "a": "if family is beta or gap",
        "b": "if family is beta or gap",
        "rate": "",
    }


def test_two_choices_together() -> None:
    def suggest(trial: Trial) -> None:
        one = trial.suggest_categorical("one", ["a", "b"])
        two = trial.suggest_categorical("two", [1, 2, 3])
        if one == "a" and two != 2:
            trial.suggest_int("both", 1, 9)

    assert conditions(suggest)["both"] == "if one is a, and two is 1 or 3"


def test_a_number_at_the_end_of_its_range_is_found() -> None:
    """A random draw never meets it, and a baseline may."""

    def suggest(trial: Trial) -> None:
        share = trial.suggest_float("share", 0.0, 1.0)
        sign = trial.suggest_categorical("sign", [-1, 0, 1])
        if share < 1.0 or sign != 0:
            trial.suggest_categorical("source", ["x", "y"])

    assert conditions(suggest)["source"] == "unless share is at its high end, and sign is 0"


def test_an_alternative_of_two() -> None:
    def suggest(trial: Trial) -> None:
        for name in ("first", "second"):
            if trial.suggest_categorical(name, [False, True]):
                trial.suggest_float(f"{name}/size", 0.0, 1.0)
        first = "first/size" in trial.params
        if first or "second/size" in trial.params:
            trial.suggest_float("step", 0.0, 1.0)

    assert conditions(suggest)["step"] == "unless first is False, and second is False"


def test_what_no_choice_tells_is_given_as_a_share() -> None:
    def suggest(trial: Trial) -> None:
        if trial.suggest_float("x", 0.0, 1.0) > 0.7:
            trial.suggest_float("y", 0.0, 1.0)

    assert conditions(suggest)["y"].endswith("% of random draws, by several of the above")


def test_a_baseline_shows_parameters_that_draws_rarely_meet() -> None:
    def suggest(trial: Trial) -> None:
        if trial.suggest_float("x", 0.0, 1.0) == 0.25:
            trial.suggest_float("rare", 0.0, 1.0)

    assert "rare" not in conditions(suggest)
    assert "rare" in conditions(suggest, {"only": {"x": 0.25, "rare": 0.5}})


def test_draws_that_a_space_refuses_are_left_out() -> None:
    def suggest(trial: Trial) -> None:
        if trial.suggest_float("x", 0.0, 1.0) in (0.0, 1.0):
            raise ValueError("degenerate")
        trial.suggest_float("y", 0.0, 1.0)

    assert conditions(suggest) == {"x": "", "y": ""}


def test_a_space_that_refuses_every_draw_is_an_error() -> None:
    def suggest(trial: Trial) -> None:
        raise ValueError("always")

    with pytest.raises(SpaceError, match=r"refuses every draw.*always"):
        find_parameters(suggest, {})


def test_domains_in_words() -> None:
    def suggest(trial: Trial) -> None:
        trial.suggest_float("f", 1e-3, 0.5, log=True)
        trial.suggest_float("g", 0.0, 1.0, step=0.25)
        trial.suggest_int("i", 1, 3)
        trial.suggest_int("j", 2, 16, log=True)
        trial.suggest_int("k", 0, 10, step=5)
        trial.suggest_categorical("c", ["a", 1, None])

    found = {p.name: p.domain for p in find_parameters(suggest, {}, draws=1)}
    assert found == {
        "f": "0.001 to 0.5, log",
        "g": "0 to 1, step 0.25",
        "i": "1 to 3, whole",
        "j": "2 to 16, whole, log",
        "k": "0 to 10, whole, step 5",
        "c": "a | 1 | None",
    }


def test_draws_stay_within_the_distributions() -> None:
    """Every value is one that Optuna's own distribution contains."""
    distributions = []

    def suggest(trial: Trial) -> None:
        trial.suggest_float("g", 0.1, 0.9, step=0.2)
        trial.suggest_int("k", 1, 10, step=3)
        trial.suggest_int("j", 2, 1280, log=True)
        trial.suggest_float("f", 1e-4, 0.1, log=True)
        for name, distribution in trial.distributions.items():
            distributions.append(distribution)
            assert distribution._contains(distribution.to_internal_repr(trial.params[name])), (
                name,
                trial.params,
            )

    find_parameters(suggest, {}, draws=300)
    assert len(distributions) == 4 * 300


def test_the_default_space() -> None:
    """Read off search_spaces/second_order.py; every parameter appears, baselines' included."""
    space = load_space("second_order")
    found = {p.name: p for p in find_parameters(space.suggest, space.baselines)}
    assert found["time/beta/a"].condition == "if time/family is beta"
    assert found["ds/family"].condition == "if loss/tri_consistency/active is True"
    assert found["x_source/until"].condition == "if x_source/kind is annealed"
    assert found["loss/second_order/ramp"].condition == "if loss/second_order/sign is -1 or 1"
    assert found["optimizer/learning_rate"].condition == ""
    assert domain_text(found["optimizer/learning_rate"].distribution) == "0.001 to 0.01, log"
    assert {name for params in space.baselines.values() for name in params} <= set(found)
