"""`compile: auto`: compiled where a trial is long enough, the same on every host and after every resume."""

from typing import Any

import pytest

from meanflow_tune.config import Budget, TrialConfig
from meanflow_tune.config.compilation import choose
from meanflow_tune.models import MLP, MODEL_KINDS, DiT, NetworkSettings
from meanflow_tune.tracking.events import _compile_tag
from tests.support.tiny_run import NET, tiny_config


def trained_for(steps: int, **changes: Any) -> TrialConfig:
    return tiny_config(budget=Budget(images=32 * steps, global_batch=32), **changes)


def test_a_long_trial_of_a_transformer_is_compiled_and_a_short_one_is_not() -> None:
    pays = DiT.compile_pays_after
    assert pays is not None
    assert not choose("auto", DiT(), pays - 1).compiled
    assert choose("auto", DiT(), pays).compiled
    assert not choose("auto", MLP(), 3600).compiled


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_the_choice_says_why(kind: type[NetworkSettings]) -> None:
    choice = choose("auto", kind(), 10**6)
    assert choice.compiled == (kind.compile_pays_after is not None)
    assert repr(kind().kind) in str(choice)
    assert str(choice).startswith("compiled: " if choice.compiled else "eager: ")


@pytest.mark.parametrize("setting", [True, False])
def test_a_setting_of_the_user_is_kept(setting: bool) -> None:
    assert trained_for(1, compile=setting).compile_choice.compiled is setting
    assert _compile_tag(trained_for(1, compile=setting).to_dict()) == {}


def test_the_choice_follows_from_the_stored_configuration() -> None:
    config = trained_for(10, compile="auto")
    again = TrialConfig.from_dict(config.to_dict())
    assert again == config
    assert again.compile == "auto"
    assert again.compile_choice == config.compile_choice
    assert _compile_tag(config.to_dict()) == {"compile": str(config.compile_choice)}
    # A run on another seed, as the repeats of a trial are, has it too.
    assert config.model_copy(update={"seed": 5}).compile_choice == config.compile_choice


@pytest.mark.parametrize("wrong", ["Auto", "never", 2])
def test_another_word_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="compile"):
        TrialConfig.from_dict(tiny_config().to_dict() | {"compile": wrong})


def test_a_teacher_does_not_depend_on_the_choice() -> None:
    assert tiny_config(compile="auto").teacher_run() == tiny_config().teacher_run()


def test_settings_of_this_revision_leave_the_names_of_caches() -> None:
    """And what a still earlier one stored means what it meant: its diagonal was at a random end."""
    config = tiny_config(model=NET)
    data = config.to_dict()
    assert data.pop("channels_last") is False
    del data["time_sampler"]["diagonal_at"]
    assert TrialConfig.from_dict(data).time_sampler.diagonal_at == "random"
    assert tiny_config(channels_last=True).content_hash() != config.content_hash()


def test_a_network_with_dropout_is_never_compiled() -> None:
    config = trained_for(10, model=MLP(dropout=0.2), compile="auto")
    assert not config.compile_choice.compiled
    assert "dropout is 0.2" in config.compile_choice.reason
