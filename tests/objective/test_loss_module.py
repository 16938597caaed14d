"""The objective from end to end, against the closed-form flow and against one loss at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meanflow_tune.config import Annealed, StudentJump, TeacherOde, TrialConfig, Weighting
from meanflow_tune.core.paths import linear_path
from meanflow_tune.core.types import PathSample, TimePair
from meanflow_tune.ds_schedules import Constant
from meanflow_tune.losses import (
    Backward,
    FlowMatching,
    Forward,
    Generalized,
    LossMix,
    SecondOrder,
    Solver,
    TriConsistency,
)
from meanflow_tune.objective.loss_module import Objective
from tests.support.closed_form import GaussianFlow, flow_batch, gaussian_flow
from tests.support.smooth import Pass, pass_of
from tests.support.tiny_run import tiny_config

MIXTURES = {
    "backward": LossMix.mixture(backward=1.0),
    "forward": LossMix.mixture(forward=1.0),
    "second_order": LossMix.mixture(second_order=1.0),
    "negative share": LossMix.mixture(backward=0.7, forward=0.6, second_order=-0.3),
    "tri_consistency": LossMix(
        tri_consistency=TriConsistency(solver=Solver(method="rk4", steps=32))
    ),
    "split": LossMix(tri_consistency=TriConsistency(second_part="student")),
    "start": LossMix(tri_consistency=TriConsistency(split="start")),
    "generalized": LossMix(generalized=Generalized(alpha=0.5, beta=-0.5)),
    "sum": LossMix(
        form="sum",
        backward=Backward(share=0.5),
        forward=Forward(share=0.3),
        second_order=SecondOrder(share=0.2),
    ),
    "all": LossMix(
        backward=Backward(share=0.5),
        tri_consistency=TriConsistency(share=0.5, solver=Solver(method="rk4", steps=32)),
    ),
}
# The split at the start makes an Euler step.
EXACT = [name for name in MIXTURES if name != "start"]


class Shifted(nn.Module):
    """The exact average velocity plus a parameter, so that there is a gradient to test."""

    def __init__(self, flow: GaussianFlow) -> None:
        super().__init__()
        self.flow = flow
        self.passes: list[Pass] = []
        self.shift = nn.Parameter(torch.zeros(flow.mean.shape, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        self.passes.append(pass_of(x, t, s))
        out: Tensor = self.flow(x, t, s, label) + self.shift
        return out


def config_for(losses: LossMix, **changes: Any) -> TrialConfig:
    schedule = Constant(value=0.25) if losses.tri_consistency else None
    weighting = Weighting(power=0.0, epsilon=1e-3)
    return tiny_config(losses=losses, ds_schedule=schedule, weighting=weighting, **changes)


def batch(flow: GaussianFlow, diagonal: int = 4) -> PathSample:
    x_t, t, s = flow_batch(flow)
    s = torch.cat([t[:diagonal], s[diagonal:]])
    zero = torch.zeros_like(x_t)
    return PathSample(zero, zero, x_t, zero, t, s, None, ode_draw=torch.linspace(0.0, 0.99, len(t)))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    "source",
    [StudentJump(), TeacherOde(solver=Solver(steps=32)), Annealed(solver=Solver(steps=32))],
)
def test_the_exact_flow_map_has_no_loss(name: str, source: Any) -> None:
    """With the closed-form u as student and v as teacher every identity holds, at every progress."""
    flow = gaussian_flow()
    objective = Objective(Shifted(flow), flow.velocity, config_for(MIXTURES[name], x_source=source))
    for progress in (0.0, 0.2, 1.0):
        output = objective(batch(flow), progress)
        assert output.loss.item() < 1e-13
        assert all(v.item() < 1e-6 for k, v in output.terms.items() if k.startswith("residual"))


@pytest.mark.parametrize("name", MIXTURES)
def test_a_wrong_student_has_one(name: str) -> None:
    flow = gaussian_flow()
    student = Shifted(flow)
    with torch.no_grad():
        student.shift.fill_(0.3)
    output = Objective(student, flow.velocity, config_for(MIXTURES[name]))(batch(flow), 1.0)
    assert output.loss.item() > 1e-3


def test_the_diagonal_is_flow_matching_with_the_teachers_velocity() -> None:
    flow = gaussian_flow()
    student = Shifted(flow)
    with torch.no_grad():
        student.shift.fill_(0.3)
    path = batch(flow, diagonal=16)
    losses = [
        Objective(student, flow.velocity, config_for(mix))(path, 0.5).loss.item()
        for mix in MIXTURES.values()
    ]
    assert losses == pytest.approx([0.3**2] * len(losses), rel=1e-12)


def test_flow_matching_without_a_teacher_uses_the_conditional_velocity() -> None:
    flow = gaussian_flow()
    config = config_for(
        LossMix(flow_matching=FlowMatching()),
        teacher=None,
        evaluation=None,
        velocity_source="from_scratch",
    )
    x_0, x_1 = torch.randn(
        2, 16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    t = torch.linspace(0.1, 0.9, 16, dtype=torch.float64)
    path = linear_path(x_0, x_1, TimePair(t, t), None)
    loss = Objective(Shifted(flow), None, config)(path, 0.0).loss
    expected = (flow(path.x_t, t, t) - (x_1 - x_0)).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_mixture_has_the_gradient_of_the_weighted_sum_under_squared_error() -> None:
    flow = gaussian_flow()
    path = batch(flow)

    def gradient(mix: LossMix) -> Tensor:
        student = Shifted(flow)
        with torch.no_grad():
            student.shift.copy_(torch.tensor([0.3, -0.2, 0.1]))
        Objective(student, flow.velocity, config_for(mix))(path, 1.0).loss.backward()
        assert student.shift.grad is not None
        return student.shift.grad

    shares = {"backward": 0.6, "forward": 0.6, "second_order": -0.2}
    parts = sum(share * gradient(LossMix.mixture(**{name: 1.0})) for name, share in shares.items())
    assert torch.allclose(gradient(LossMix.mixture(**shares)), parts, rtol=1e-10, atol=0)


def test_the_teacher_is_not_a_parameter() -> None:
    flow = gaussian_flow()
    teacher = nn.Linear(3, 3)
    objective = Objective(
        Shifted(flow), lambda x, t, label=None: teacher(x), config_for(MIXTURES["backward"])
    )
    assert [name for name, _ in objective.named_parameters()] == ["student.shift"]


@pytest.mark.parametrize(
    ("mix", "components"),
    [
        ("backward", 2),
        ("forward", 2),
        ("second_order", 4),
        ("negative share", 4),
        ("tri_consistency", 1),
        ("split", 1),
        ("start", 1),
        ("generalized", 4),
        ("sum", 4),
    ],
)
def test_only_what_a_mixture_needs_is_computed(mix: str, components: int) -> None:
    """A first-order loss pays two components, the second order four, the discrete one none."""
    flow = gaussian_flow()
    student = Shifted(flow)
    Objective(student, flow.velocity, config_for(MIXTURES[mix]))(batch(flow), 1.0)
    assert max(each.components for each in student.passes) == components
