"""The linear path, generation by jumps and the reduction of residuals."""

import pytest
import torch

from meanflow_tune.core.generation import generate
from meanflow_tune.core.paths import linear_path
from meanflow_tune.core.residuals import adaptive_weight, per_sample_mean_square
from meanflow_tune.core.types import TimePair
from tests.support.closed_form import flow_batch, gaussian_flow


def test_path_runs_from_noise_to_data_with_its_slope_as_velocity() -> None:
    generator = torch.Generator().manual_seed(1)
    x_0, x_1 = torch.randn(2, 3, 1, 2, 2, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.0, 1.0, 0.25], dtype=torch.float64)
    label = torch.arange(3)
    path = linear_path(x_0, x_1, TimePair(t, torch.ones_like(t)), label)
    assert torch.equal(path.x_t[0], x_0[0])
    assert torch.equal(path.x_t[1], x_1[1])
    torch.testing.assert_close(path.x_t[2] + 0.75 * path.v_t[2], x_1[2])
    assert path.label is label
    torch.testing.assert_close(path.gap, 1.0 - t)


def test_path_refuses_what_would_broadcast() -> None:
    x, times = torch.zeros(3, 2), TimePair(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"x_0.shape == x_1.shape"):
        linear_path(x, torch.zeros(1, 2), times, None)
    with pytest.raises(ValueError, match=r"t must have shape \(3,\)"):
        linear_path(x, x, TimePair(torch.zeros(1), torch.ones(3)), None)
    with pytest.raises(ValueError, match=r"label must have shape \(3,\)"):
        linear_path(x, x, times, torch.zeros(3, 1, dtype=torch.int64))


@pytest.mark.parametrize("nfe", [1, 2, 3, 4])
def test_exact_average_velocity_generates_exactly_at_any_nfe(nfe: int) -> None:
    flow = gaussian_flow((1, 2, 2))
    x_0 = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zero = torch.zeros(8, dtype=torch.float64)
    exact = flow.flow(x_0, zero, zero + 1.0)
    torch.testing.assert_close(generate(flow, x_0, None, nfe), exact, rtol=0.0, atol=1e-14)


def test_generation_walks_a_uniform_grid_with_its_labels() -> None:
    label = torch.tensor([3, 5])
    seen: list[tuple[float, float]] = []

    def student(x, t, s, label=None):
        seen.append((t[0].item(), s[0].item()))
        return label.to(x.dtype).reshape(-1, 1).expand_as(x)

    out = generate(student, torch.zeros(2, 1), label, 4)
    assert seen == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert out.squeeze(1).tolist() == [3.0, 5.0]
    with pytest.raises(ValueError, match="nfe >= 1"):
        generate(student, torch.zeros(2, 1), label, 0)


def test_mean_square_is_a_mean_over_dimensions() -> None:
    residual = torch.tensor([[[1.0, 3.0]], [[0.0, 2.0]]])
    assert per_sample_mean_square(residual).tolist() == [5.0, 2.0]


def test_adaptive_weight_and_its_gradient() -> None:
    residual = torch.tensor([[2.0], [1.0]], requires_grad=True)
    mean_square = per_sample_mean_square(residual)
    weight = adaptive_weight(mean_square, power=0.5, epsilon=0.5)
    assert weight.tolist() == pytest.approx([4.5**-0.5, 1.5**-0.5])
    (weight * mean_square).mean().backward()
    assert residual.grad is not None
    # The weight is a constant: each row's gradient is weight · 2 r / B.
    assert residual.grad.squeeze(1).tolist() == pytest.approx([2.0 * 4.5**-0.5, 1.5**-0.5])
    assert adaptive_weight(mean_square, 0.0, 1e-3).tolist() == [1.0, 1.0]


def test_flow_batch_stays_within_time() -> None:
    _, t, s = flow_batch(gaussian_flow(), batch=256, smallest_gap=0.2)
    assert t.min() >= 0.0
    assert s.max() <= 1.0
    assert (s - t).min() >= 0.2 - 1e-12
