"""Settings without effect are refused in new input, and load where an earlier revision stored them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.config import Annealed, Guidance, Optimizer, TeacherOde, TrialConfig, Weighting
from meanflow_tune.config.effects import without_effect
from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.losses import Backward, FlowMatching, Forward, LossMix
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import UserError
from meanflow_tune.search.space.load import known_spaces
from meanflow_tune.time_samplers import UniformPairs
from scripts import train
from tests.support.manifests import manifest
from tests.support.paths import TINY_SPACE
from tests.support.tiny_run import tiny_config

BACKWARD = LossMix(backward=Backward())
FLOW = LossMix(flow_matching=FlowMatching())
DIAGONAL = UniformPairs(diagonal_share=1.0)
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "x_s of a loss that needs none": (
        {"losses": BACKWARD, "x_source": TeacherOde()},
        r"x_source 'teacher_ode' has no effect.*backward",
    ),
    "annealed likewise": (
        {"losses": BACKWARD, "x_source": Annealed()},
        r"x_source 'annealed' has no effect",
    ),
    "a clamp of flow matching": (
        {"losses": LossMix(flow_matching=FlowMatching(), clamp=2.0), "time_sampler": DIAGONAL},
        r"losses.clamp 2 has no effect",
    ),
    "a diagonal that leaves nothing": (
        {"losses": BACKWARD, "time_sampler": DIAGONAL},
        r"diagonal_share 1 leaves no sample with t < s to losses backward",
    ),
    "flow matching off the diagonal": (
        {"losses": FLOW},
        r"losses.flow_matching belongs to the diagonal.*diagonal_share is 0.25; set it to 1",
    ),
    "flow matching beside others": (
        {"losses": LossMix(backward=Backward(share=0.5), flow_matching=FlowMatching(share=0.5))},
        r"losses.flow_matching beside backward.*leave it out",
    ),
    "a place on no diagonal": (
        {"time_sampler": UniformPairs(diagonal_share=0.0, diagonal_at="end")},
        r"diagonal_at 'end' has no effect",
    ),
    "a diagonal without a sample": (
        {"time_sampler": UniformPairs(diagonal_share=0.01)},
        r"diagonal_share 0.01 of budget.global_batch 32 rounds to no sample; take at least 0.03125",
    ),
    "a sum of one": (
        {"losses": LossMix(form="sum", backward=Backward())},
        r"losses.form 'sum' has no effect on backward alone",
    ),
    "a decay after the end": (
        {"optimizer": Optimizer(warmup=1.0)},
        r"optimizer.decay 'cosine' has no effect",
    ),
    "an epsilon without power": (
        {"weighting": Weighting(power=0.0, epsilon=1e-5)},
        r"weighting.epsilon 1e-05 has no effect",
    ),
    "guidance by 1": (
        {
            "guidance": Guidance(scale=1.0),
            "label_dropout": 0.1,
            "velocity_source": "from_scratch",
            "teacher": None,
            "evaluation": None,
        },
        r"guidance.scale 1 is no guidance; set guidance to null",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_setting_without_effect_is_named(name: str) -> None:
    changes, message = FAULTS[name]
    config = tiny_config(**changes)
    fault = without_effect(config)
    assert fault is not None
    assert re.search(message, fault)
    assert TrialConfig.from_dict(config.to_dict()) == config, "what is stored loads"


def test_settings_with_an_effect_pass() -> None:
    assert without_effect(tiny_config()) is None
    assert without_effect(tiny_config().teacher_run()) is None
    forward = LossMix(forward=Forward())
    assert without_effect(tiny_config(losses=forward, x_source=Annealed())) is None
    assert without_effect(tiny_config(losses=FLOW, time_sampler=DIAGONAL)) is None


@pytest.mark.parametrize("name", known_spaces())
def test_shipped_spaces_draw_none(name: str, tmp_path: Path) -> None:
    given = ["--space", name, "--storage", str(tmp_path), "--trials", "200"]
    plan = make_plan(search_request(tune_parser().parse_args(given)))
    assert [without_effect(config) for config in plan.examples] == [None] * len(plan.examples)


def test_a_new_search_is_refused_and_an_old_study_continues(tmp_path: Path) -> None:
    given = ["--space", str(TINY_SPACE), "--storage", str(tmp_path), "--study", "s"]
    request = search_request(tune_parser().parse_args([*given, "--set", "optimizer.warmup=1"]))
    with pytest.raises(UserError, match=r"optimizer.decay 'cosine' has no effect"):
        make_plan(request)
    manifest(study="s").write(request.folder)
    assert make_plan(request).examples


def test_set_is_refused_where_no_trial_looks_at_it(tmp_path: Path) -> None:
    """Baselines of backward alone look at no x_s, proposals that mix forward with it do."""
    given = ["--space", str(TINY_SPACE), "--storage", str(tmp_path), "--set"]
    x_s = search_request(tune_parser().parse_args([*given, 'x_source={"kind": "annealed"}']))
    assert {config.x_source.kind for config in make_plan(x_s).examples} == {"annealed"}
    decay = search_request(tune_parser().parse_args([*given, "optimizer.warmup=1"]))
    with pytest.raises(UserError, match=r"^--set: optimizer.decay 'cosine' has no effect"):
        make_plan(decay)


def test_no_study_excuses_what_is_begun_afresh(tmp_path: Path) -> None:
    given = ["--space", str(TINY_SPACE), "--storage", str(tmp_path), "--study", "s"]
    given += ["--resume", "fresh", "--set", "optimizer.warmup=1"]
    request = search_request(tune_parser().parse_args(given))
    manifest(study="s").write(request.folder)
    with pytest.raises(UserError, match=r"optimizer.decay 'cosine' has no effect"):
        make_plan(request)


def test_train_notes_what_is_stored_and_refuses_what_is_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "best.json"
    stored.write_text(json.dumps(tiny_config(losses=BACKWARD, x_source=Annealed()).to_dict()))
    common = ["--config", str(stored), "--output", str(tmp_path / "out"), "--cache", str(tmp_path)]
    assert train.main(common) == 0
    assert "note: x_source 'annealed' has no effect" in capsys.readouterr().err
    other = [*common, "--output", str(tmp_path / "other")]
    assert train.main([*other, "--set", "seed=1"]) == 0, "what is set has an effect"
    assert "note: x_source 'annealed' has no effect" in capsys.readouterr().err
    stored.write_text(json.dumps(tiny_config(losses=BACKWARD).to_dict()))
    assert train.main([*common, "--set", 'x_source={"kind": "annealed"}']) == 2
    assert "--set: x_source 'annealed' has no effect" in capsys.readouterr().err
