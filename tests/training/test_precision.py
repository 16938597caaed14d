"""The setting `precision`: matrix products in bfloat16, everything else and every result in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meanflow_tune.core.jets.engine import EAGER, engine_of
from meanflow_tune.ds_schedules import Constant, Exponential
from meanflow_tune.losses import Backward, FiniteDifference, LossMix, SecondOrder, TriConsistency
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.jets.networks import batch, make, relative_error
from tests.support.tiny_run import Memory, tiny_config


class Watched(nn.Module):
    """Remembers the types in which its network computes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.autocast = inner, set[bool]()

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        self.autocast.add(torch.is_autocast_enabled("cpu"))
        out: Tensor = self.inner(*inputs, **named)
        return out


def test_passes_round_and_give_float32() -> None:
    model = make("transformer", torch.float32)
    x, t, s, v, label = batch(model.shape, torch.float32)
    half = engine_of(False, "bfloat16")
    assert engine_of(False, "float32") is EAGER
    with torch.no_grad():
        pairs = [
            (half.forward(model, x, t, s, label=label), EAGER.forward(model, x, t, s, label=label))
        ]
        rounded, full = (e.velocity_jet(model, x, t, s, v, label=label) for e in (half, EAGER))
        pairs += [(getattr(rounded, n), getattr(full, n)) for n in ("u", "d_s", "d_t", "d_t_d_s")]
        one, two = (
            e.directional_jet(model, x, t, s, dx=v, dt=1.0, ds=0.0, label=label)
            for e in (half, EAGER)
        )
        pairs.append((one.derivative, two.derivative))
    for ours, exact in pairs:
        assert ours.dtype == torch.float32
        # Eight bits: 4e-3 a rounding. Zero would mean that nothing was rounded.
        assert 1e-4 < relative_error(ours, exact) < 5e-2


def test_training_computes_under_autocast_and_reduces_outside(tmp_path: Path) -> None:
    weights = {}
    for precision in ("float32", "bfloat16"):
        config = tiny_config(precision=precision)
        resources = Resources(tmp_path, World())
        run = Run.start(
            config, World(), resources.data(config), resources.teacher(config, Memory())
        )
        student = Watched(run.objective.student)
        run.objective.input_maker.student = student  # type: ignore[assignment]
        for _ in range(6):
            output = run.advance(run.objective)
        assert student.autocast == {precision == "bfloat16"}
        assert output.loss.dtype == torch.float32
        parameters = list(run.objective.student.parameters())
        assert {p.dtype for p in parameters} == {torch.float32}
        weights[precision] = torch.cat([p.detach().flatten() for p in parameters])
    difference = relative_error(weights["bfloat16"], weights["float32"])
    assert 0.0 < difference < 5e-2


def test_the_teacher_does_not_depend_on_the_setting() -> None:
    one, two = (tiny_config(precision=p).teacher_run() for p in ("float32", "bfloat16"))
    assert one == two


def test_differences_in_bfloat16_are_refused() -> None:
    second = LossMix(
        backward=Backward(share=0.9),
        second_order=SecondOrder(share=0.1),
        derivative=FiniteDifference(order=1),
    )
    with pytest.raises(ValueError, match=r"finite_difference.*float32.*bfloat16.*exact"):
        tiny_config(precision="bfloat16", losses=second, ds_schedule=Constant(value=0.5))
    tri = LossMix(backward=Backward(share=0.5), tri_consistency=TriConsistency(share=0.5))
    with pytest.raises(ValueError, match=r"ratio >= 0\.1.*falls to 0\.01"):
        tiny_config(precision="bfloat16", losses=tri, ds_schedule=Exponential(start=0.5, end=0.01))
    tiny_config(precision="bfloat16", losses=tri, ds_schedule=Constant(value=0.5))


def test_trials_are_compared_with_the_teacher_in_float32(tmp_path: Path) -> None:
    ends = []
    for precision in ("bfloat16", "float32"):
        resources = Resources(tmp_path, World())
        evaluator = resources.evaluator(tiny_config(precision=precision), Memory())
        assert evaluator is not None
        ends.append(evaluator.reference.teacher_end)
    assert torch.equal(*ends)  # type: ignore[arg-type]
