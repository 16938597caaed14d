"""Dropout in training: one set of masks per step, whatever the ranks and interruptions."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.jets import DropoutMasks, directional_jet, without_dropout
from meanflow_tune.core.module_state import has_dropout
from meanflow_tune.core.types import expand_as
from meanflow_tune.ds_schedules import Constant
from meanflow_tune.losses import LossMix, TriConsistency
from meanflow_tune.models import MLP, DiT, UNet
from meanflow_tune.objective.loss_module import Objective
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from meanflow_tune.weightings import Adaptive
from tests.support.tiny_run import NET, assert_same, tiny_config

NET_WITH_DROPOUT = NET.model_copy(update={"dropout": 0.3})
TARGETS: tuple[Literal["same", "none"], ...] = ("same", "none")


def config_with(**changes: Any) -> TrialConfig:
    settings: dict[str, Any] = {
        "model": NET_WITH_DROPOUT,
        "teacher": None,
        "evaluation": None,
        "velocity_source": "from_scratch",
    }
    return tiny_config(**(settings | changes))


def start(config: TrialConfig, world: World | None = None) -> Run:
    return Run.start(config, world or World(), config.data.load(), None)


@pytest.mark.parametrize("targets", TARGETS)
def test_the_target_of_a_step_has_the_masks_that_the_setting_asks_for(targets: Any) -> None:
    """Backward MeanFlow by hand, with a squared error."""
    config = config_with(
        losses=LossMix.mixture(backward=1.0),
        weighting=Adaptive(power=0.0),
        dropout_in_targets=targets,
    )
    run = start(config)
    path, student = run.batch(), run.objective.student
    assert path.row is not None
    masks = DropoutMasks(path.dropout_seed, len(path.t))
    with masks.of(path.row):
        u = student(path.x_t, path.t, path.s, label=path.label)
    with masks.of(path.row) if targets == "same" else without_dropout(), torch.no_grad():
        at = (path.x_t, path.t, path.s)
        d_t = directional_jet(student, *at, path.v_t, 1.0, 0.0, label=path.label).derivative
    target = path.v_t + expand_as(path.gap, d_t) * d_t
    expected = (u - target).square().mean()
    found = run.objective(path, 0.0).loss
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    wrong = u - (path.v_t + expand_as(path.gap, d_t) * d_t.roll(1, 0))
    assert not torch.isclose(found, wrong.square().mean(), rtol=1e-4)


def gradient(config: TrialConfig, size: int) -> list[Tensor]:
    """Of the global batch, as the mean over ranks that each have their rows."""
    parts = []
    for rank in range(size):
        run = start(config, World(rank, size))
        run.objective(run.batch(), 0.5).loss.backward()
        parts.append([p.grad for p in run.objective.parameters() if p.grad is not None])
    return [sum(each) / size for each in zip(*parts, strict=True)]  # type: ignore[misc]


@pytest.mark.parametrize("targets", TARGETS)
def test_the_number_of_ranks_does_not_matter(targets: Any) -> None:
    config = config_with(dropout_in_targets=targets)
    for one, two in zip(gradient(config, 1), gradient(config, 2), strict=True):
        assert (one - two).abs().max() < 2e-6 * one.abs().max() + 2e-8
    other = gradient(config.model_copy(update={"seed": 1}), 1)
    assert not torch.allclose(other[0], gradient(config, 1)[0])


def test_a_resume_is_bitwise() -> None:
    config = config_with()
    whole, first, second = start(config), start(config), start(config)
    for _ in range(3):
        whole.advance(whole.objective)
        first.advance(first.objective)
    torch.rand(7)
    second.load_state_dict(first.snapshot())
    for run in (whole, second):
        for _ in range(3):
            run.advance(run.objective)
    whole.cost, second.cost = {}, {}
    whole.curve, second.curve = first.curve, first.curve
    assert_same(whole, second)


def test_each_step_has_masks_of_its_own_and_both_settings_train_differently() -> None:
    run = start(config_with())
    before = run.batch().dropout_seed
    run.advance(run.objective)
    assert run.batch().dropout_seed != before
    none = start(config_with(dropout_in_targets="none"))
    none.advance(none.objective)
    without = start(config_with(model=NET))
    without.advance(without.objective)
    weights = [r.objective.student.get_parameter("last.weight") for r in (run, none, without)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_without_dropout_a_batch_carries_no_rows() -> None:
    run = start(config_with(model=NET))
    assert run.batch().row is None
    assert not has_dropout(run.objective.student)


def test_the_moving_average_and_with_it_every_evaluation_has_no_dropout() -> None:
    run = start(config_with())
    run.advance(run.objective)
    net, path = run.averaged(), run.batch()
    one, two = (net(path.x_t, path.t, path.s, path.label) for _ in range(2))
    assert torch.equal(one, two)
    assert has_dropout(net)
    assert not any(part.training for part in net.modules())


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_differences_of_u_in_a_target_are_all_without_dropout(stop_gradient: bool) -> None:
    """(u - u_split) / ratio would otherwise be the noise of dropout, divided by the ratio."""
    tri = TriConsistency(share=1.0, second_part="student", stop_gradient=stop_gradient)
    config = config_with(
        losses=LossMix(tri_consistency=tri),
        ds_schedule=Constant(value=1e-3),
        dropout_in_targets="none",
    )
    run = start(config)
    run.objective.student.eval()  # then prediction and targets agree
    quiet = run.objective(run.batch(), 0.5).terms["residual"]
    run.objective.student.train()
    loud = run.objective(run.batch(), 0.5).terms["residual"]
    assert loud < 20 * quiet


@pytest.mark.parametrize(
    ("kind", "shape"), [(MLP(dropout=0.4), (3,)), (UNet(width=8, groups=4, dropout=0.4), (1, 4, 4))]
)
def test_networks_drop_in_training_only_and_have_the_weights_of_those_without(
    kind: Any, shape: tuple[int, ...]
) -> None:
    plain_kind = kind.model_copy(update={"dropout": 0.0})
    nets = [of.build(shape, None, torch.Generator().manual_seed(0)) for of in (kind, plain_kind)]
    assert nets[0].state_dict().keys() == nets[1].state_dict().keys()
    x, t, s = torch.randn(6, *shape), torch.full((6,), 0.2), torch.full((6,), 0.9)
    expected = nets[1](x, t, s)
    assert not torch.equal(nets[0](x, t, s), nets[0](x, t, s))
    assert torch.equal(nets[0].eval()(x, t, s), expected)
    with DropoutMasks(1, 6).of():
        one = nets[0].train()(x, t, s)
    with DropoutMasks(1, 6).of(torch.tensor([4, 5])):
        some = nets[0](x[4:], t[4:], s[4:])
    torch.testing.assert_close(one[4:], some)
    assert [has_dropout(net) for net in nets] == [True, False]


def test_dropout_of_a_layer_of_torch_is_seen() -> None:
    assert has_dropout(nn.Sequential(nn.Dropout2d(0.1)))
    assert has_dropout(nn.MultiheadAttention(4, 2, dropout=0.1))
    assert not has_dropout(nn.Sequential(nn.Dropout(0.0), nn.MultiheadAttention(4, 2)))


def test_what_cannot_be_is_refused_in_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"model.dropout 0.3: compiled code .* set compile to false"
    ):
        config_with(compile=True)
    with pytest.raises(ValueError, match=r"dropout_in_targets 'none' changes nothing .* 'same'"):
        config_with(model=NET, dropout_in_targets="none")
    config = config_with(model=DiT(), compile=True)
    with pytest.raises(ValueError, match=r"a network with dropout: compiled code"):
        Objective(nn.Sequential(nn.Dropout(0.1)), None, config)
