"""A space must not vary what its objectives measure with: the data, the evaluation, the teacher."""

from pathlib import Path

import pytest
from optuna.trial import FixedTrial

from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest, UserError
from meanflow_tune.search.errors import SpaceError
from tests.support.paths import TINY_SPACE

HEAD = """
from meanflow_tune.config import Guidance
from meanflow_tune.data import Digits
from meanflow_tune.metrics import SlicedWasserstein

_plain = suggest
METRICS = (TeacherGap(), SlicedWasserstein())


def suggest(trial):
    config = _plain(trial)
    lr = config.optimizer.learning_rate
    evaluation = Evaluation(nfe=(1, 2), samples=64, metrics=METRICS)
    teacher = config.teacher
    changes = {"evaluation": evaluation}
"""
TEACHER = '    changes["teacher"] = teacher.model_copy(update={"seed": 1 if lr < 5e-3 else 2})\n'
SAMPLES = (
    '    changes["evaluation"] = evaluation.model_copy(update={"samples": 64 + (lr < 5e-3)})\n'
)
DATA = '    changes["data"] = EightGaussians(size=512, held_out=128 if lr < 5e-3 else 64)\n'
GUIDANCE = (
    '    changes["data"] = Digits()\n'
    '    changes["teacher"] = teacher.model_copy(update={"label_dropout": 0.1})\n'
    '    changes["guidance"] = None if lr < 5e-3 else Guidance(scale=2.0)\n'
)
# Drawn with probability 1e-6, so that no example shows it.
RARE = (
    '    rare = config.losses.backward and trial.params["loss/backward/fraction"] == 0.12345\n'
    '    changes["teacher"] = teacher.model_copy(update={"seed": 7 if rare else 5})\n'
)


def asked(folder: Path, line: str, **changes: object) -> SearchRequest:
    path = folder / "varying.py"
    tail = "    return config.model_copy(update=changes)\n"
    path.write_text(TINY_SPACE.read_text() + HEAD + line + tail)
    given = {"space": str(path), "study": "s", "trials": 4, "storage": folder / "runs"}
    return SearchRequest(**given | changes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (TEACHER, r"`teacher.seed` varies between trials \(1 and 2\)"),
        (GUIDANCE, r"`guidance` varies between trials \(null and \{.scale.: 2.0"),
    ],
)
def test_a_teacher_that_varies_is_no_yardstick(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        make_plan(asked(tmp_path, line))
    text = str(error.value)
    assert "\n" not in text
    assert "a bad teacher that is easy to follow would win" in text
    assert "sliced_wasserstein" in text
    # Measured against held-out data, teachers may be compared.
    make_plan(asked(tmp_path, line, objectives="sliced_wasserstein@1"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (SAMPLES, r"`evaluation.samples` varies between trials \(6[45] and 6[45]\)"),
        (DATA, r"`data.held_out` varies between trials \(\d+ and \d+\)"),
    ],
)
@pytest.mark.parametrize("objective", ["teacher_gap@1", "sliced_wasserstein@2,cost"])
def test_samples_and_data_may_not_vary_under_any_metric(
    tmp_path: Path, line: str, words: str, objective: str
) -> None:
    with pytest.raises(UserError, match=words):
        make_plan(asked(tmp_path, line, objectives=objective))


def test_a_setting_that_fixes_it_for_all_trials_is_no_variation(tmp_path: Path) -> None:
    plan = make_plan(asked(tmp_path, "", settings=("teacher.budget.images=3200",)))
    assert {config.teacher.budget.images for config in plan.examples if config.teacher} == {3200}


def test_a_branch_that_no_example_took_is_refused_when_it_is_drawn(tmp_path: Path) -> None:
    plan = make_plan(asked(tmp_path, RARE))
    params = {"loss/second_order/sign": 0, "optimizer/learning_rate": 5e-3}
    common = plan.suggest(FixedTrial(params | {"loss/backward/fraction": 0.5}))
    assert common["teacher"]["seed"] == 5
    with pytest.raises(SpaceError, match=r"`teacher.seed` varies between trials \(5 and 7\)"):
        plan.suggest(FixedTrial(params | {"loss/backward/fraction": 0.12345}))
