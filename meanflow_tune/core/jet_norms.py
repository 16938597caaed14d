"""Rules for normalisation beyond layer, group, RMS and batch norm."""

from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jet_arithmetic import divide, multiply, power
from meanflow_tune.core.jet_layers import batch_norm, group_norm
from meanflow_tune.core.jet_type import Jet, UnsupportedOperator, register_rule


@register_rule(F.instance_norm)
def instance_norm(
    x: Jet,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Jet:
    """A group norm with one channel a group, or with running statistics a batch norm at rest."""
    if use_input_stats:
        if running_mean is not None:
            raise UnsupportedOperator(
                "instance_norm that updates running statistics",
                "call eval() on it, or make it with track_running_stats=False",
            )
        return group_norm(x, x.shape[1], weight, bias, eps)
    return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)


@register_rule(F.local_response_norm)
def local_response_norm(
    x: Jet, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Jet:
    """x / (k + alpha · mean of x² over `size` neighbouring channels)^beta."""
    around = (0, 0) * (x.parts.dim() - 3) + (size // 2, (size - 1) // 2)
    squares = F.pad(multiply(x, x).parts, around)  # channels are axis 2 of the storage
    means = Jet(squares.unfold(2, size, 1).mean(-1))
    return divide(x, power(means * alpha + k, beta))
