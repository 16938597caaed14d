"""Trials that users ask for: checked against the space at once, and mapped from whole configurations."""

import json
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.plan.enqueue import check_params, read_enqueued
from meanflow_tune.plan.request import UserError
from meanflow_tune.search.space.draws import AnyTrial, draw_fixed, draw_random
from meanflow_tune.search.space.load import load_space
from tests.support.studies import suggest as toy

SPACE = load_space("second_order")


def suggest(trial: AnyTrial) -> dict[str, Any]:
    found: dict[str, Any] = SPACE.suggest(trial).to_dict()
    return found


def write(folder: Path, data: Any) -> Path:
    path = folder / "wanted.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def refusal(folder: Path, data: Any) -> str:
    with pytest.raises(UserError) as error:
        read_enqueued(write(folder, data), suggest)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same(params: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Equal but for the rounding of the shares, of which the space computes others."""
    assert params.keys() == wanted.keys()
    for name, value in wanted.items():
        near = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert params[name] == near, name


@pytest.mark.parametrize("seed", [None, 1, 4])
def test_a_configuration_is_mapped_to_its_parameters(tmp_path: Path, seed: int | None) -> None:
    if seed is None:
        made = draw_fixed(suggest, SPACE.baselines["meanflow_cifar10_v1"])
    else:
        made = draw_random(suggest, seed)
    ((params, notes),) = read_enqueued(write(tmp_path, made.config), suggest)
    assert_same(params, made.params)
    assert notes == []


def test_the_seeds_are_those_of_the_study(tmp_path: Path) -> None:
    made = draw_fixed(suggest, SPACE.baselines["meanflow_cifar10_v1"])
    ((params, notes),) = read_enqueued(write(tmp_path, made.config | {"seed": 7}), suggest)
    assert_same(params, made.params)
    assert notes == ["seed is that of the study, 0"]


def test_a_configuration_that_the_space_lacks_names_the_setting(tmp_path: Path) -> None:
    made = draw_fixed(suggest, SPACE.baselines["meanflow_cifar10_v1"]).config
    other = made | {"ema": made["ema"] | {"decay": 0.5}} if "decay" in made["ema"] else None
    wider = json.loads(json.dumps(made))
    wider["optimizer"]["learning_rate"] = 0.9
    assert "optimizer.learning_rate is 0.9" in refusal(tmp_path, wider)
    if other is not None:
        assert "ema.decay is 0.5" in refusal(tmp_path, other)
    assert "nonsense" in refusal(tmp_path, made | {"nonsense": 1})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "no JSON"),
        ("[" * 10_000, "no JSON"),
        ("[]", "the list is empty"),
        ("7", "a trial is an object"),
        ("{}", "a trial is an object"),
        ('{"weighting/power": NaN}', "NaN is not a number"),
        ({"weighting/power": 2.0}, "weighting/power"),
        ({"weighting/power": "high"}, "weighting/power"),
        ({"time/family": "gaussian"}, "time/family"),
        ({"weighting/powr": 0.5}, "'weighting/powr' is not in the space; known: "),
        ({"ds/family": "linear"}, "'ds/family' has no effect for every choice"),
        ([{"weighting/power": 0.5}, {"weighting/power": 7}], "entry 2: "),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, data: Any, words: str) -> None:
    assert words in refusal(tmp_path, data)


def test_a_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_enqueued(tmp_path / "none.json", suggest)


def test_several_trials_keep_their_order(tmp_path: Path) -> None:
    wanted = [{"weighting/power": 0.5}, {"loss/backward/fraction": 1.0}]
    assert [params for params, _ in read_enqueued(write(tmp_path, wanted), suggest)] == wanted


def test_what_a_parameter_depends_on_makes_it_usable() -> None:
    check_params(toy, {"kind": "bent", "rate": 0.1})
    with pytest.raises(ValueError, match="'rate' has no effect"):
        check_params(toy, {"rate": 0.1})


def test_a_number_given_as_text_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"optimizer/learning_rate": "0.002"})
    assert "parameter 'optimizer/learning_rate': '0.002' is not in 0.001 to 0.01" in said


@pytest.mark.parametrize("value", ["1e999", "-1e999", "2.5", "true", '"2"', "null", "[2]"])
def test_what_is_no_whole_number_is_refused(tmp_path: Path, value: str) -> None:
    text = f'{{"x_source/kind": "teacher_ode", "x_source/steps": {value}}}'
    assert "parameter 'x_source/steps'" in refusal(tmp_path, text)


def test_a_choice_is_of_its_own_kind(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"loss/tri_consistency/active": 1})
    assert "parameter 'loss/tri_consistency/active': 1 is not in False | True" in said


def test_a_file_of_an_editor_that_marks_its_encoding_is_read(tmp_path: Path) -> None:
    params = {"optimizer/learning_rate": 0.002}
    assert read_enqueued(write(tmp_path, "\ufeff" + json.dumps(params)), suggest) == [(params, [])]
