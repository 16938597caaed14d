"""Training from scratch, with guidance and with learned weights: the loop around the objective."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meanflow_tune.config import (
    Budget,
    Ema,
    Evaluation,
    Guidance,
    Optimizer,
    TeacherConfig,
    TrialConfig,
)
from meanflow_tune.data import Digits, EightGaussians
from meanflow_tune.losses import LossMix
from meanflow_tune.metrics import SlicedWasserstein
from meanflow_tune.models import MLP
from meanflow_tune.student_files import export_student
from meanflow_tune.time_samplers import UniformPairs
from meanflow_tune.tracking.student_model import load_student
from meanflow_tune.training.loop import train
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Meter, Run, means
from meanflow_tune.training.world import World
from meanflow_tune.weightings import Adaptive, LogVariance
from tests.support.tiny_run import Memory, assert_same, tiny_config

WORLD = World()
SLICED = Evaluation(nfe=(1, 2), samples=256, metrics=(SlicedWasserstein(),))
MIX = LossMix.mixture(backward=0.6, forward=0.3, second_order=0.1)
SMALL = MLP(width=16, blocks=1, time_features=8, condition_width=16)


def from_scratch(**changes: Any) -> TrialConfig:
    settings: dict[str, Any] = {
        "velocity_source": "from_scratch",
        "teacher": None,
        "evaluation": SLICED,
        "losses": MIX,
        "weighting": LogVariance(width=8),
    }
    return tiny_config(**(settings | changes))


def digits(**changes: Any) -> TrialConfig:
    """Labelled data and a teacher with a null class, trained for a few steps."""
    settings: dict[str, Any] = {
        "data": Digits(),
        "model": SMALL,
        "teacher": TeacherConfig(
            model=SMALL, budget=Budget(images=640, global_batch=64), label_dropout=0.2
        ),
    }
    return tiny_config(**(settings | changes))


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(tmp_path_factory.mktemp("teachers"), WORLD)


def start(config: TrialConfig, resources: Resources) -> Run:
    teacher = resources.teacher(config, Memory())
    return Run.start(config, WORLD, resources.data(config), teacher, resources.initial(config))


def test_resume_from_scratch_is_bitwise(resources: Resources, tmp_path: Path) -> None:
    """The self-teacher, the learned weighting and its Adam state come back as they were."""
    config = from_scratch()
    evaluator = resources.evaluator(config, Memory())
    whole = start(config, resources)
    assert train(whole, tmp_path / "whole", Memory(), evaluator).status == "completed"
    assert whole.objective.weighting.state_dict()["out"].abs().max() > 0, "it has been trained"
    first = start(config, resources)
    train(first, tmp_path / "parts", Memory(interrupt_after=5), evaluator)
    second = start(config, resources)
    assert train(second, tmp_path / "parts", Memory(), evaluator).status == "completed"
    assert second.step == 10
    assert_same(whole, second)


def test_the_self_teacher_is_the_moving_average_at_every_step(resources: Resources) -> None:
    """The trap: a copy made at the start, or before a checkpoint is loaded, would stay behind."""
    config = from_scratch()
    data = resources.data(config)
    x, t = data.train_x[:8], torch.linspace(0.0, 1.0, 8)
    run = start(config, resources)
    for _ in range(3):
        run.advance(run.objective)
    state = run.state_dict()
    other = start(config, resources)
    other.load_state_dict(state)
    average = config.network(data.shape, data.classes, torch.Generator())
    average.load_state_dict(run.ema.net.state_dict())
    for each in (run, other):
        found = each.objective.input_maker.velocity(x, t, None)
        assert torch.equal(found, average(x, t, t))
        assert not torch.equal(found, each.objective.student(x, t, t))
    names = {name for name, _ in run.objective.named_parameters()}
    assert {name.partition(".")[0] for name in names} == {"student", "weighting"}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["backward", "forward"])
def test_from_scratch_learns_the_data(loss: str, resources: Resources, tmp_path: Path) -> None:
    """Without any teacher, one jump from noise gives data: the noise itself is at 0.32, and one step
    of flow matching at 0.61, with a floor between two samples of the data at 0.12."""
    config = from_scratch(
        data=EightGaussians(size=2048, held_out=512),
        model=MLP(width=32, blocks=2),
        losses=LossMix.mixture(**{loss: 1.0}),
        weighting=Adaptive(power=0.0),
        time_sampler=UniformPairs(diagonal_share=0.5),
        optimizer=Optimizer(learning_rate=5e-3),
        ema=Ema(half_life_images=5000),
        budget=Budget(images=256 * 300, global_batch=256),
        evaluation=Evaluation(nfe=(1,), samples=512, metrics=(SlicedWasserstein(),)),
    )
    run = start(config, resources)
    evaluator = resources.evaluator(config, Memory())
    assert train(run, tmp_path, Memory(), evaluator).status == "completed"
    assert run.reports[-1].metrics["sliced_wasserstein@1"] < 0.25


def test_samples_without_a_teacher(resources: Resources, tmp_path: Path) -> None:
    config = from_scratch()
    run = start(config, resources)
    evaluator = resources.evaluator(config, Memory())
    assert evaluator is not None
    assert evaluator.teacher_metrics == {}
    train(run, tmp_path, Memory(), evaluator)
    with np.load(next((tmp_path / "samples").glob("*.npz"))) as arrays:
        names = set(arrays.files)
    assert names == {"latents", "teacher_metrics", "held_out_metrics", "student@1", "student@2"}


def test_guidance_moves_the_teacher_and_what_students_are_compared_with(
    resources: Resources,
) -> None:
    ends, teachers = [], []
    for guidance in (None, Guidance(scale=3.0), Guidance(scale=3.0, t_start=0.0, t_end=0.2)):
        config = digits(guidance=guidance)
        evaluator = resources.evaluator(config, Memory())
        assert evaluator is not None
        ends.append(evaluator.reference.teacher_end)
        teachers.append(resources.teacher_folder(config))
    assert len(set(teachers)) == 1, "one teacher serves every guidance"
    for i in range(3):
        assert ends[i] is not None
        assert not torch.equal(ends[i], ends[i - 1])


def test_a_guided_student_trains_from_the_teachers_weights_and_can_be_exported(
    resources: Resources, tmp_path: Path
) -> None:
    """Its network has the teacher's null class, which an exported student must have too."""
    config = digits(guidance=Guidance(scale=2.0), student_init="teacher")
    run = start(config, resources)
    evaluator = resources.evaluator(config, Memory())
    assert train(run, tmp_path, Memory(), evaluator).status == "completed"
    data = run.data
    folder = export_student(
        tmp_path / "model", config.to_dict(), run.averaged_state(), data.shape, data.classes
    )
    student = load_student(folder)
    latents, labels = torch.randn(4, *data.shape), torch.arange(4)
    assert student.generate(latents, labels, 2).shape == latents.shape


def test_labels_are_dropped_at_their_share_and_alike_on_every_rank(resources: Resources) -> None:
    config = digits(
        velocity_source="from_scratch",
        teacher=None,
        evaluation=None,
        label_dropout=0.25,
        guidance=Guidance(scale=2.0),
    )
    data = resources.data(config)
    assert data.classes is not None
    run = Run.start(config, WORLD, data, None)
    labels = []
    for step in range(100):
        run.step = step
        batch = run.batch()
        assert batch.label is not None
        labels.append(batch.label)
    share = (torch.cat(labels) == data.classes).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.03)
    parts = [Run.start(config, World(rank, 2), data, None) for rank in range(2)]
    for part in parts:
        part.step = run.step
    both = torch.stack([part.batch().label for part in parts], dim=1).flatten()
    assert torch.equal(both, labels[-1])
    run.advance(run.objective)


def test_dropped_labels_of_unlabelled_data_are_refused(resources: Resources) -> None:
    with pytest.raises(ValueError, match="needs data with classes"):
        start(from_scratch(label_dropout=0.1), resources)


def test_a_term_that_a_step_lacks_does_not_lower_its_mean() -> None:
    meter = Meter(WORLD)
    meter.add({"loss": torch.tensor(1.0), "correction/cosine": torch.tensor(0.5)})
    meter.add({"loss": torch.tensor(3.0)})
    assert means(meter.sums({})) == {"loss/loss": 2.0, "loss/correction/cosine": 0.5}


def test_a_loss_that_is_not_finite_poisons_the_weighting_too(resources: Resources) -> None:
    """The trap: parameters without a gradient on one rank would leave the others waiting in DDP."""
    run = start(from_scratch(), resources)
    with torch.no_grad():
        list(run.objective.student.parameters())[-1].fill_(1e25)
    run.objective(run.batch(), 0.5).loss.backward()
    gradients = [p.grad for p in run.objective.parameters()]
    assert all(g is not None for g in gradients)
    assert all(not torch.isfinite(p.grad).all() for p in run.objective.weighting.parameters()
               if p.grad is not None)  # fmt: skip
