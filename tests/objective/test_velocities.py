"""Where velocities come from: the named sources, guidance, and the null class."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meanflow_tune.config import (
    Budget,
    Evaluation,
    Guidance,
    TeacherConfig,
    TeacherOde,
    TrialConfig,
)
from meanflow_tune.core.jets.engine import EAGER
from meanflow_tune.core.paths import linear_path
from meanflow_tune.core.random import make_generator
from meanflow_tune.core.types import PathSample, TimePair
from meanflow_tune.data import Digits
from meanflow_tune.ds_schedules import Constant
from meanflow_tune.losses import FlowMatching, LossMix, TriConsistency
from meanflow_tune.metrics import SlicedWasserstein, TeacherGap
from meanflow_tune.models import MLP
from meanflow_tune.objective.loss_module import Objective
from meanflow_tune.objective.target_inputs import TargetInputMaker
from meanflow_tune.objective.velocities import GuidedTeacher
from meanflow_tune.time_samplers import UniformPairs
from tests.support.smooth import Smooth, field, gradient, smooth_path
from tests.support.tiny_run import NET, tiny_config

WITHOUT_TEACHER = Evaluation(nfe=(1, 2), samples=64, metrics=(SlicedWasserstein(),))
MIX = LossMix.mixture(backward=0.5, forward=0.3, second_order=0.2, second_order_ramp=0.0)
NULL = 10


def from_scratch(**changes: Any) -> TrialConfig:
    settings: dict[str, Any] = {
        "velocity_source": "from_scratch",
        "teacher": None,
        "evaluation": WITHOUT_TEACHER,
        "losses": MIX,
    }
    return tiny_config(**(settings | changes))


def teacher(**changes: Any) -> TeacherConfig:
    return TeacherConfig(model=NET, budget=Budget(images=640, global_batch=64), **changes)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no teacher": (
        {"teacher": None, "evaluation": None},
        "velocity_source 'teacher' needs a teacher, but teacher is null",
    ),
    "no diagonal": (
        {"velocity_source": "from_scratch", "time_sampler": UniformPairs(diagonal_share=0.0)},
        r"`time_sampler.diagonal_share > 0` must hold, but it is 0",
    ),
    "an ODE without teacher": (
        {"velocity_source": "from_scratch", "x_source": TeacherOde()},
        "x_source 'teacher_ode' integrates a teacher",
    ),
    "a segment without teacher": (
        {
            "velocity_source": "from_scratch",
            "losses": LossMix(tri_consistency=TriConsistency()),
            "ds_schedule": Constant(value=0.5),
        },
        "second_part 'teacher' integrates a teacher",
    ),
    "an unused teacher": (
        {"velocity_source": "from_scratch", "evaluation": None},
        "teacher is used by nothing",
    ),
    "a gap to no teacher": (
        {"velocity_source": "from_scratch", "teacher": None},
        "evaluation.metrics teacher_gap compare with a teacher, but teacher is null",
    ),
    "guidance without null class": (
        {"guidance": Guidance(scale=2.0)},
        "`teacher.label_dropout > 0` must hold, but it is 0",
    ),
    "guidance from scratch without null class": (
        {
            "velocity_source": "from_scratch",
            "guidance": Guidance(scale=2.0),
            "teacher": teacher(label_dropout=0.1),
        },
        "`label_dropout > 0` must hold, but it is 0",
    ),
    "weights without the null class": (
        {"velocity_source": "from_scratch", "label_dropout": 0.1, "student_init": "teacher"},
        "label_dropout > 0 needs a teacher with a null class",
    ),
    "label dropout of a distilled student": (
        {"label_dropout": 0.1},
        "label_dropout 0.1 belongs to velocity_source 'from_scratch'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_combinations_that_make_no_sense_are_refused(name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


def test_a_guidance_interval_has_a_length() -> None:
    with pytest.raises(ValueError, match=r"guidance.t_start < guidance.t_end` must hold"):
        Guidance(scale=2.0, t_start=0.5, t_end=0.5)


def test_a_teacher_run_names_its_source() -> None:
    config = tiny_config(teacher=teacher(label_dropout=0.2)).teacher_run()
    assert config.velocity_source == "from_scratch"
    assert config.label_dropout == 0.2
    assert list(config.losses.active) == ["flow_matching"]


def test_from_scratch_takes_the_data_at_t_and_the_self_teacher_at_s() -> None:
    net, path, asked = Smooth(), smooth_path(6), []

    def average(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        asked.append((x, t))
        return field(x, t)

    maker = TargetInputMaker(net, average, from_scratch())
    v_t = maker.path_velocity(path)
    assert torch.equal(v_t, path.x_1 - path.x_0)
    assert not asked
    u = net(path.x_t, path.t, path.s)
    inputs = maker.without_derivatives(path, u, v_t, 1.0)
    x_s = path.x_t + path.gap[:, None] * u
    ((x, t),) = asked
    torch.testing.assert_close(x, x_s.detach())
    assert torch.equal(t, path.s)
    assert torch.equal(inputs.given("v_s"), field(x_s, path.s))
    assert not inputs.given("v_s").requires_grad


@pytest.mark.parametrize("name", ["backward", "forward", "second_order"])
def test_targets_are_linear_in_the_velocity_so_the_conditional_one_is_unbiased(name: str) -> None:
    """Two pairs (x_0, x_1) through one x_t: the mean target is the target of the mean velocity."""
    net, path = Smooth(), smooth_path(6)
    config = from_scratch(losses=LossMix.mixture(**{name: 1.0}))
    loss = config.losses.active[name]

    def target(v: Tensor) -> Tensor:
        maker = TargetInputMaker(net, field, config)
        here = replace(path, v_t=v)
        with torch.no_grad():
            u = net(path.x_t, path.t, path.s)
            inputs = maker.without_derivatives(here, u, maker.path_velocity(here), 1.0)
            return loss.target(maker.with_derivatives(inputs, 1.0))

    v, w = torch.randn(2, *path.v_t.shape, dtype=torch.float64)
    torch.testing.assert_close(target((v + w) / 2), (target(v) + target(w)) / 2)
    if name != "forward":
        assert not torch.allclose(target(v), target(w))


class Labelled(nn.Module):
    """A student that adds a constant of each label, the null one too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Smooth()
        self.labels = nn.Embedding(NULL + 1, 3, dtype=torch.float64)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        out: Tensor = self.net(x, t, s) + self.labels(label)
        return out


def labelled_path(labels: list[int]) -> PathSample:
    path = smooth_path(len(labels))
    return replace(path, label=torch.tensor(labels))


def test_a_GuidedTeacher_is_extrapolated_inside_the_interval_only() -> None:
    net, label = Labelled(), torch.tensor([1, 2, NULL, 3])
    x = torch.randn(4, 3, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.5, 0.9], dtype=torch.float64)
    null = torch.full_like(label, NULL)
    with torch.no_grad():
        plain, free = net(x, t, t, label), net(x, t, t, null)
        found = GuidedTeacher(net, Guidance(scale=3.0, t_start=0.3, t_end=0.7), NULL, EAGER)(
            x, t, label
        )
        torch.testing.assert_close(found[1], free[1] + 3.0 * (plain[1] - free[1]))
        for row in (0, 2, 3):
            assert torch.equal(found[row], plain[row]), "outside, or already without label"
        one = GuidedTeacher(net, Guidance(scale=1.0), NULL, EAGER)(x, t, label)
        torch.testing.assert_close(one, plain)
        zero = GuidedTeacher(net, Guidance(scale=0.0), NULL, EAGER)(x, t, label)
        torch.testing.assert_close(zero, free)
        assert torch.equal(GuidedTeacher(net, None, None, EAGER)(x, t, label), plain)


def test_guidance_from_scratch_is_that_of_meanflow() -> None:
    """w (x_1 - x_0) + (1 - w) u(x_t, t, t, no label), arXiv 2505.13447 section 4.2 with κ = 0."""
    net, path = Labelled(), labelled_path([1, 2, NULL, 3])
    guidance = Guidance(scale=2.5, t_start=0.0, t_end=float(path.t[1]))
    config = from_scratch(guidance=guidance, label_dropout=0.1)
    found = TargetInputMaker(net, None, config, NULL).path_velocity(path)
    v, t = path.x_1 - path.x_0, path.t
    free = net(path.x_t, t, t, torch.full((4,), NULL)).detach()
    inside = (t <= guidance.t_end) & torch.tensor([True, True, False, True])
    expected = torch.where(inside[:, None], 2.5 * v - 1.5 * free, v)
    torch.testing.assert_close(found, expected)
    assert not inside.all()
    assert inside[1]
    assert not found.requires_grad


def test_guidance_changes_the_training_from_scratch() -> None:
    found = []
    for guidance in (None, Guidance(scale=2.0)):
        torch.manual_seed(0)
        net, path = Labelled(), labelled_path([1, 2, 4, 3])
        config = from_scratch(guidance=guidance, label_dropout=0.1)
        objective = Objective(net, lambda x, t, label=None: field(x, t), config, NULL)
        objective(path, 1.0).loss.backward()
        found.append(gradient(net))
    assert not torch.allclose(found[0], found[1], rtol=1e-2)


def test_guidance_without_labels_is_refused() -> None:
    config = from_scratch(guidance=Guidance(scale=2.0), label_dropout=0.1)
    with pytest.raises(ValueError, match="guidance needs labels and a null class"):
        Objective(Smooth(), field, config)(smooth_path(), 1.0)


def test_networks_have_a_null_class_only_where_labels_are_dropped() -> None:
    def classes(config: TrialConfig) -> int:
        net = config.network((1, 8, 8), 10, make_generator(0))
        return int(net.condition.labels.num_embeddings)  # type: ignore[union-attr]

    with_null = teacher(label_dropout=0.1)
    assert classes(tiny_config()) == 10
    assert classes(tiny_config(teacher=with_null)) == 10, "a distilled student needs none"
    assert classes(tiny_config(teacher=with_null).teacher_run()) == 11
    assert classes(tiny_config(teacher=with_null, student_init="teacher")) == 11
    assert classes(from_scratch(label_dropout=0.1)) == 11
    with pytest.raises(ValueError, match="needs data with classes, but data 'eight_gaussians'"):
        from_scratch(label_dropout=0.1).network((2,), None, make_generator(0))


def test_flow_matching_from_scratch_ignores_the_self_teacher() -> None:
    x_0, x_1 = torch.randn(2, 8, 3, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    path = linear_path(x_0, x_1, TimePair(t, t), None)
    config = from_scratch(losses=LossMix(flow_matching=FlowMatching()), evaluation=None)
    assert torch.isfinite(Objective(Smooth(), None, config)(path, 0.5).loss)


def test_metrics_say_whether_they_need_a_teacher() -> None:
    config = from_scratch()
    assert config.evaluation is not None
    assert [m.needs_teacher for m in (TeacherGap(), SlicedWasserstein())] == [True, False]
    kept = from_scratch(teacher=teacher(), evaluation=Evaluation(samples=64))
    assert kept.teacher is not None, "a teacher may serve the evaluation alone"


def test_configurations_are_data() -> None:
    config = from_scratch(
        data=Digits(),
        model=MLP(width=16, blocks=1),
        guidance=Guidance(scale=2.0, t_start=0.1, t_end=0.8),
        label_dropout=0.1,
    )
    assert TrialConfig.from_dict(config.to_dict()) == config
    flat = config.flat()
    assert flat["guidance.t_end"] == 0.8
    assert flat["velocity_source"] == "from_scratch"
