"""What `Student.sample` draws, its relation to the logged model's predictions, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from meanflow_tune.config import Guidance, TrialConfig
from meanflow_tune.core.module_state import rebuilding_generator
from meanflow_tune.student_files import export_student
from meanflow_tune.time_samplers import UniformPairs
from meanflow_tune.tracking.student_model import Student, load_student
from tests.support.stories import CLASSES, SHAPE, make_student
from tests.support.tiny_run import tiny_config


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return load_student(make_student(tmp_path_factory.mktemp("student")))


def dropped(folder: Path, guidance: Guidance | None = None) -> Student:
    """One with a null class of its own."""
    config = tiny_config(
        velocity_source="from_scratch",
        teacher=None,
        evaluation=None,
        label_dropout=0.1,
        guidance=guidance,
        time_sampler=UniformPairs(diagonal_share=0.5),
    )
    net = config.network((2,), 8, rebuilding_generator())
    return load_student(export_student(folder, config.to_dict(), net.state_dict(), (2,), 8))


@pytest.mark.parametrize("nfe", [1, 4])
def test_samples_are_the_predictions_of_the_logged_model(student: Student, nfe: int) -> None:
    rows = pd.DataFrame({"seed": range(5, 12), "label": [0, 1, 2, 0, 1, 2, 0]})
    samples = student.sample(nfe, 7, seed=5)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, student.predict(rows, {"nfe": nfe}))
    given = student.sample(nfe, 7, labels=[2, 0], seed=5)
    rows["label"] = [2, 0, 2, 0, 2, 0, 2]
    np.testing.assert_array_equal(given, student.predict(rows, {"nfe": nfe}))


def test_sample_i_depends_on_its_seed_and_label_only(student: Student) -> None:
    many = student.sample(2, 300, labels=[1])
    np.testing.assert_allclose(student.sample(2, 3, [1], seed=200), many[200:203], atol=1e-5)


def test_progress_is_told_after_each_batch(student: Student) -> None:
    told: list[int] = []
    student.sample(1, 300, progress=told.append)
    assert told == [256, 300]


def test_guidance_moves_away_from_the_null_class(tmp_path: Path) -> None:
    student = dropped(tmp_path)
    seeds, labels = student.rows(16, None, 0)
    assert labels is not None
    latents = student.latents(torch.tensor(seeds))
    zero, one = torch.zeros(16), torch.ones(16)
    with torch.no_grad():
        u = student.net(latents, zero, one, torch.tensor(labels))
        free = student.net(latents, zero, one, torch.full((16,), 8))
    expected = (latents + free + 3.0 * (u - free)).numpy()
    np.testing.assert_allclose(student.sample(1, 16, guidance=3.0), expected, atol=1e-5)
    np.testing.assert_allclose(
        student.sample(2, 16, guidance=1.0), student.sample(2, 16), atol=1e-5
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nfe": 0}, "nfe 0 must be at least 1"),
        ({"n": 0}, "n 0 must be at least 1"),
        ({"seed": -1}, "seed -1 must be from 0"),
        ({"seed": 2**63 - 1}, r"seed 9223372036854775807 must be from 0"),
        ({"labels": [0, CLASSES]}, "labels 3: this student has the classes 0 to 2"),
        ({"labels": []}, "labels is empty"),
        ({"labels": [0, 1, 2], "n": 2}, "raise n to 3"),
        ({"guidance": 2.0}, "guidance 2: this student has no null class"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(
    student: Student, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        student.sample(**given)
    assert "\n" not in str(caught.value)


def test_classes_and_guidance_need_a_student_that_has_them(tmp_path: Path) -> None:
    without = load_student(make_student(tmp_path / "without", classes=None))
    assert without.sample(1, 3).shape == (3, *SHAPE)
    for given in ({"labels": [0]}, {"guidance": 1.5}):
        with pytest.raises(ValueError, match="this student has no classes"):
            without.sample(**given)  # type: ignore[arg-type]
    guided = dropped(tmp_path / "guided", Guidance(scale=2.0))
    with pytest.raises(ValueError, match=r"trained with guidance.scale 2, .* leave it out"):
        guided.sample(guidance=1.5)
    free = dropped(tmp_path / "free")
    for scale in (float("nan"), -1.0, 21.0):
        with pytest.raises(ValueError, match="must be from 0 to 20"):
            free.sample(guidance=scale)


def test_the_teachers_null_class_is_not_the_students(tmp_path: Path) -> None:
    """Distilled from a teacher's weights: nothing trained the null class of the average velocity."""
    plain = tiny_config()
    assert plain.teacher is not None
    teacher = plain.teacher.model_copy(update={"label_dropout": 0.1})
    config = TrialConfig.from_dict(
        tiny_config(student_init="teacher").to_dict() | {"teacher": teacher.model_dump()}
    )
    assert config.has_null_class
    net = config.network((2,), 8, rebuilding_generator())
    folder = export_student(tmp_path, config.to_dict(), net.state_dict(), (2,), 8)
    with pytest.raises(ValueError, match="no null class of its own"):
        load_student(folder).sample(guidance=2.0)
