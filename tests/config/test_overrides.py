"""Settings by path: what is wrong with one is said in one line."""

import json
import re
from pathlib import Path

import pytest

from meanflow_tune.config import TrialConfig
from meanflow_tune.config.overrides import override
from scripts import train
from tests.support.tiny_run import tiny_config

DATA = {"seed": 0, "model": {"width": 16}, "rungs": [1.0]}


def test_values_are_json_else_text() -> None:
    changed = override(DATA, ["seed=3", 'model={"width": 8}', "rungs=[0.5, 1.0]"])
    assert changed == {"seed": 3, "model": {"width": 8}, "rungs": [0.5, 1.0]}
    assert override(DATA, ["seed=none"])["seed"] == "none"


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ('model={"width": 8', r"--set model=.*: the value is not JSON \(.* at character 12\); .*"),
        ("rungs=[0.5,", r"--set rungs=.*: the value is not JSON .* 'rungs=\[1, 2\]', .*"),
        (
            "model.widt=8",
            r"--set .*: `model.widt` is not a setting; did you mean `model.width` or `model`\?",
        ),
        ("zzz=8", r"--set zzz=8: `zzz` is not a setting; known: seed, model, rungs\."),
        ("seed", r"--set seed: write it as path=value, .*"),
    ],
)
def test_a_fault_is_one_line(setting: str, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        override(DATA, [setting])
    assert re.fullmatch(line, str(caught.value)), caught.value


def test_what_is_set_has_the_defaults_of_today() -> None:
    """Only stored data without diagonal_at are of an earlier revision, whose default was another."""
    data = tiny_config().to_dict()
    changed = TrialConfig.from_dict(data, ['time_sampler={"kind": "nested"}'])
    assert changed.time_sampler.diagonal_at == "start"
    del data["time_sampler"]["diagonal_at"]
    assert TrialConfig.from_dict(data, ["seed=1"]).time_sampler.diagonal_at == "random"


def test_train_refuses_a_file_without_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "list.json"
    file.write_text(json.dumps([1, 2]))
    assert train.main(["--config", str(file), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"train.py: --config {file}: holds list, no settings.\n"
