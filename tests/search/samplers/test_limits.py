"""Samplers that cannot do a search are refused, and what they leave to chance is named."""

from collections.abc import Sequence
from typing import Any

import pytest
from optuna.trial import Trial

from meanflow_tune.search.samplers import cmaes
from meanflow_tune.search.samplers.factory import SAMPLER_KINDS, SamplerKind
from meanflow_tune.search.samplers.limits import check_sampler, independent_note
from meanflow_tune.search.space.draws import draw_fixed, draw_random
from meanflow_tune.search.space.load import load_space
from tests.support.studies import BASELINES, suggest


def check(
    kind: SamplerKind, suggest: Any, objectives: int, baselines: Sequence[dict[str, Any]]
) -> tuple[str, ...]:
    fixed = [draw_fixed(suggest, params).distributions for params in baselines]
    drawn = [draw_random(suggest, seed).distributions for seed in range(24)]
    return check_sampler(kind, objectives, fixed, drawn)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmaes, "is_installed", lambda: True)


@pytest.mark.parametrize(
    ("kind", "independent"),
    [
        ("tpe", ()),
        ("random", ()),
        ("gp", ("rate",)),
        ("nsgaii", ("rate",)),
        ("qmc", ("rate",)),
        ("cmaes", ("kind", "rate")),
    ],
)
def test_independent_parameters_are_named(kind: SamplerKind, independent: tuple[str, ...]) -> None:
    """`rate` exists in one branch only, `kind` is categorical."""
    assert check(kind, suggest, 1, list(BASELINES.values())) == independent
    note = independent_note(kind, independent)
    assert (note is None) == (independent == ())
    assert note is None or note.endswith(f"of results: {', '.join(independent)}")


def test_qmc_spreads_what_trial_0_has() -> None:
    bent_first = [BASELINES["bent"], BASELINES["plain"]]
    assert check("qmc", suggest, 1, bent_first) == ()
    assert check("qmc", suggest, 1, []) == ("rate",)


def one_number(trial: Trial) -> Any:
    return trial.suggest_categorical("kind", ["a", "b"]) == "a" and trial.suggest_float("x", 0, 1)


def test_a_space_without_anything_to_model_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"--sampler cmaes: it models only numbers .* second_order_f"
    ):
        check("cmaes", one_number, 1, [])
    assert check("gp", one_number, 1, []) == ("x",)


@pytest.mark.parametrize("kind", ["gp", "nsgaii", "qmc"])
def test_a_space_without_a_common_parameter_is_refused(kind: SamplerKind) -> None:
    asked = iter(range(1000))

    def turns(trial: Trial) -> Any:
        return trial.suggest_float(f"x{next(asked) % 2}", 0, 1)

    with pytest.raises(ValueError, match=f"--sampler {kind}: it models only parameters that every"):
        check(kind, turns, 1, [])


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
def test_several_objectives(kind: SamplerKind) -> None:
    if kind == "cmaes":
        with pytest.raises(
            ValueError, match=r"--sampler cmaes: it supports one objective, .* has 2"
        ):
            check(kind, suggest, 2, [])
    else:
        check(kind, suggest, 2, [])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmaes, "is_installed", lambda: False)
    with pytest.raises(
        ValueError, match="--sampler cmaes: the Python package cmaes is not installed"
    ):
        check("cmaes", suggest, 1, [])


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
def test_the_flat_space_leaves_nothing_to_chance(kind: SamplerKind) -> None:
    space = load_space("second_order_flat")
    assert check(kind, space.suggest, 1, list(space.baselines.values())) == ()


def test_the_conditional_space_names_its_branches() -> None:
    space = load_space("second_order")
    independent = check("gp", space.suggest, 1, list(space.baselines.values()))
    assert "loss/second_order/magnitude" in independent
    assert "optimizer/learning_rate" not in independent
    assert "loss/second_order/sign" not in independent
    assert "loss/second_order/sign" in check(
        "cmaes", space.suggest, 1, list(space.baselines.values())
    )
