"""A use of every operator that has a derivative rule, by its name: `case(op, x)` with x [3, 4].

The entries of x lie in (-1, 1). `op` is the operator under test: the function, or for a method the
call of it on its first argument. W and P > 0 are constants [3, 4]. Keys may be qualified ("F.unfold")
where torch uses one name for several operators; names of the form "exp_" without a case of their
own are tested by that of "exp", on a copy that is written into.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Case = Callable[[Callable[..., Any], Any], Any]

W = torch.linspace(-1.0, 1.3, 12, dtype=torch.float64).reshape(3, 4)
P = W.exp()
MASK = torch.tensor([[True, False, True, True], [False, True, False, True], [True] * 4])
ROWS = torch.tensor([2, 0, 1])
COLUMNS = torch.tensor([[3, 1, 0, 2], [0, 0, 1, 1], [2, 3, 3, 1]])


def images(x: Any, spatial: int) -> Any:
    """[2, 2, ...] with 1, 2 or 3 axes of 4 made of x and its square."""
    line = torch.stack([x[:2], x[1:] * x[1:]], 1)  # [2, 2, 4]
    for _ in range(spatial - 1):
        line = line.unsqueeze(-2) * torch.linspace(0.5, 2.0, 4, dtype=torch.float64)[:, None]
    return line


def kernels(*shape: int) -> Tensor:
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).reshape(shape)


def weighed(tensors: Any) -> Any:
    """One tensor of several, no two alike."""
    return sum(
        (i + 1.3) * y.reshape(-1).cos().sum() * y.reshape(-1)[0] for i, y in enumerate(tensors)
    )


CASES: dict[str, Case] = {}


def case(names: str, f: Case) -> None:
    for name in names.split():
        assert name not in CASES, name
        CASES[name] = f


# --- one operand ----------------------------------------------------------------------------------
case(
    "exp exp2 expm1 sin cos sinh cosh tanh sigmoid expit erf erfc atan arctan asinh arcsinh "
    "softplus logsigmoid silu mish square ndtr log_ndtr tanhshrink deg2rad rad2deg neg negative "
    "positive __neg__ __pos__ selu celu elu softsign",
    lambda op, x: op(x * 1.7),
)
case("log log2 log10 log1p sqrt rsqrt reciprocal entr", lambda op, x: op(2 + x))
case("asin arcsin acos arccos atanh arctanh erfinv", lambda op, x: op(0.8 * x))
case("acosh arccosh", lambda op, x: op(3 + x))
case("tan", lambda op, x: op(x))
case("logit", lambda op, x: op(0.5 + 0.4 * x) + op(0.5 + 0.6 * x, 0.17))
case("sinc", lambda op, x: op(x) + op(x * 0.01) + op(x * 3))
case("gelu", lambda op, x: op(x) + op(x, approximate="tanh"))
case(
    "relu relu6 hardtanh hardsigmoid hardswish hardshrink softshrink sign sgn abs_ absolute_",
    lambda op, x: op(x * 5.3 + 0.21) * x,
)
case("abs absolute __abs__", lambda op, x: op(x * 5.3 + 0.21) * x + op(x * (1 + 2j) + W * 1j))
case("floor ceil round trunc fix frac", lambda op, x: op(x * 1.1 + 0.6) * x)
case("leaky_relu", lambda op, x: op(x, 0.2) * x)
case("threshold _threshold", lambda op, x: op(x, 0.15, -2.0) * x)
case("prelu", lambda op, x: op(x, P[0]) * x + op(x, torch.tensor([0.3], dtype=torch.float64)))
case("rrelu", lambda op, x: op(x, 0.1, 0.5, False) * x)
case("clamp clip", lambda op, x: op(x, -0.35, 0.35) * x + op(x, max=0.8) + op(x, min=W * 0.3))
case("clamp_min", lambda op, x: op(x, 0.15) * x)
case("clamp_max", lambda op, x: op(x, 0.15) * x)
case("remainder __mod__", lambda op, x: op(x, 0.37) * x)
case("fmod", lambda op, x: op(x, 0.37) * x)
case("glu", lambda op, x: op(x) + op(x, dim=1))
case("softmin softmax log_softmax", lambda op, x: op(x * 2, 0) + op(x * x, -1))
case("logsumexp", lambda op, x: x * op(x, 0) + op(x, (0, -1), keepdim=True) * op(x, 1).sum())
case("logcumsumexp", lambda op, x: op(x, 0) + op(x, 1))

# --- two operands and more ------------------------------------------------------------------------
case("add", lambda op, x: op(x, x * x) + op(x, W, alpha=2.0) + op(W[0], x) + op(x[0], 1.5))
case("sub subtract", lambda op, x: op(x, x * x) + op(x, W, alpha=2.0) + op(W[0], x) + op(x[0], x))
case("rsub", lambda op, x: op(x, x * x) + op(x, W) + op(W[0], x))
case("__add__ __radd__ __sub__ __rsub__", lambda op, x: op(x, x * x) + op(x, W) + op(W, x) * x)
case("mul multiply", lambda op, x: op(x, x * x) + op(x, W) + op(W[0], x) + op(x[0], 1.5))
case("__mul__ __rmul__", lambda op, x: op(x, x * x) + op(x, W) + op(W, x) * x)
case("div divide true_divide __truediv__", lambda op, x: op(x, 2 + x) + op(x, P) + op(W, 2 + x))
case("__rtruediv__", lambda op, x: op(2 + x, x) + op(P, x) + op(2 + x, W))
case("add_ sub_ subtract_ __iadd__ __isub__", lambda op, x: op(x * 1, x * x) * op(x * 1, W))
case("mul_ multiply_ __imul__", lambda op, x: op(x * 1, x * x) + op(x * 1, W) + op(x * 1, x[0]))
case("div_ divide_ true_divide_ __itruediv__", lambda op, x: op(x * 1, 2 + x) + op(x * 1, P))
case("pow __pow__", lambda op, x: op(x, 3) + op(2 + x, W) + op(P, x) + op(2 + x, x))
case("pow_ __ipow__", lambda op, x: op(x * 1, 3) + op(2 + x, x))
case("__rpow__", lambda op, x: op(x, 1.7) + op(x, P))
case("float_power", lambda op, x: op(2 + x, 2.5) + op(2 + x, x))
case("addcmul", lambda op, x: op(x, x, W, value=2.0) + op(W, x, x))
case("addcdiv", lambda op, x: op(x, x, P, value=2.0) + op(W, x, 2 + x))
case("addcmul_", lambda op, x: op(x * 1, x, W, value=2.0))
case("addcdiv_", lambda op, x: op(x * 1, x, 2 + x, value=2.0))
case("lerp", lambda op, x: op(x, x * x, 0.3) + op(W, x, W) + op(x, W, x))
case("lerp_", lambda op, x: op(x * 1, x * x, 0.3))
case("hypot", lambda op, x: op(x, 2 + x) + op(W, 2 + x))
case("atan2 arctan2", lambda op, x: op(x, x * x - 0.5) + op(W, x) + op(x, W - 2))
case("logaddexp logaddexp2", lambda op, x: op(x, x * x) + op(W, x))
case("xlogy", lambda op, x: op(x, 2 + x) + op(W, 2 + x) + op(x, P) + op(x, 2.0))
case("minimum maximum fmin fmax", lambda op, x: (op(x, x * x) + op(W * 0.4, x)) * x)
case(
    "Tensor.where",
    lambda op, x: op(x, MASK, W) + op(P, MASK, x) + op(x, MASK[0], x * x) + op(x, MASK, 1),
)
case("where", lambda op, x: op(MASK, x * x, W) + op(MASK, 2.0, x) + op(MASK[0], x, x * x))
case("masked_fill masked_fill_", lambda op, x: op(x * 1, MASK, 2.0) * x)

# --- products -------------------------------------------------------------------------------------
case(
    "matmul __matmul__ mm dsmm spmm",
    lambda op, x: op(x, (x * x).mT) @ W + op(W, x.mT) @ x + op(x, W.mT) @ W,
)
case("__rmatmul__", lambda op, x: op(x.mT, x) @ W + op(x.mT, W) @ W)
case("bmm", lambda op, x: op(x[None], x.mT[None])[0] @ W + op(P[None], x.mT[None])[0] @ x)
case("mv", lambda op, x: x * op(x, x[0])[:, None] * op(W, x[1])[:, None] * op(x, W[0])[:, None])
case("addmm", lambda op, x: op(x, x, W.mT @ x, beta=0.5, alpha=2.0) + op(W, W, x.mT @ x))
case("addmm_", lambda op, x: op(x * 1, x, W.mT @ x, beta=0.5, alpha=2.0))
case("addbmm", lambda op, x: op(x, x[None], (W.mT @ x)[None], beta=0.5, alpha=2.0))
case("baddbmm", lambda op, x: op(x[None], x[None], (W.mT @ x)[None], beta=0.5, alpha=2.0)[0])
case("baddbmm_", lambda op, x: op(x[None] * 1, x[None], (W.mT @ x)[None], beta=0.5)[0])
case("addbmm_", lambda op, x: op(x * 1, x[None], (W.mT @ x)[None], beta=0.5))
case("addmv", lambda op, x: op(x[:, 0], x, x[1], beta=0.5, alpha=2.0) * op(W[:, 0], W, x[0]))
case("addmv_", lambda op, x: op(x[:, 0] * 1, x, x[1], beta=0.5, alpha=2.0))
case("addr", lambda op, x: op(x, x[:, 0], x[1], beta=0.5, alpha=2.0) + op(W, W[:, 1], x[0]))
case("addr_", lambda op, x: op(x * 1, x[:, 0], x[1], beta=0.5, alpha=2.0))
case("outer ger", lambda op, x: op(x[:, 0], x[1]) * op(W[:, 0], x[1]) + op(x[:, 1], W[0]))
case("inner", lambda op, x: op(x, x * x) @ W + op(x, W) @ x + op(x[0], x[1]))
case("dot vdot", lambda op, x: op(x[0], x[1]) + op(W[0], x[1]) * op(x[2], P[1]))
case("vecdot", lambda op, x: op(x, x * x) * op(W, x) + op(x, W, dim=0).sum())
case("kron", lambda op, x: op(x, x[:2] * x[:2]) + op(x, W[:2]) * op(W, x[1:]))
case("cross", lambda op, x: op(x.mT[..., :3], (x * x).mT) + op(W.mT, x.mT, dim=1))
case("tensordot", lambda op, x: op(x, x * x, dims=([1], [1])) @ W + op(W, x.mT, 1) @ x)
case(
    "einsum",
    lambda op, x: op("ij,kj,kl->il", x, x, x) + op("...j,jk", x, W.mT @ W) * op("ij->j", x),
)
case("chain_matmul", lambda op, x: op(x, W.mT, x * x))
case("multi_dot", lambda op, x: op([x, W.mT, x * x]))
case("trace", lambda op, x: op(x[:, :3] @ x[:, 1:]) * x)
case("linear", lambda op, x: op(x, W, P[:, 0]) @ W + op(x, x * x, x[:, 0]) @ W + op(W, x) @ W)
case(
    "bilinear",
    lambda op, x: op(x, x * x, kernels(3, 4, 4), P[0, :3]) + op(W, x, kernels(3, 4, 4)),
)
case(
    "scaled_dot_product_attention",
    lambda op, x: (
        op(x, 2 * x, x * x, scale=0.7)
        + op(x, W, x, attn_mask=x @ W.mT)
        + op(W, x, P)
        + op(torch.stack([x, x * x]), x[None], W[None], enable_gqa=True).sum(0)
    ),
)
case(
    "multi_head_attention_forward",
    lambda op, x: weighed(
        op(
            *[x[:, None], (x * W)[:, None], (x * W)[:, None], 4, 2, kernels(12, 4), kernels(12)],
            *[None, None, False, 0.0, W.mT @ W, W[0]],
            need_weights=weights,
        )[0]
        for weights in (False, True)
    ),
)

for _n in (1, 2, 3):
    _rest = (3,) * _n
    case(
        f"conv{_n}d",
        lambda op, x, n=_n, r=_rest: (
            op(images(x, n), kernels(4, 1, *r), W[0], padding=1, groups=2)
            + op(images(x, n), kernels(4, 2, *r) * x[0, 0], x[1], padding=1)
        ),
    )
    case(
        f"conv_transpose{_n}d",
        lambda op, x, n=_n, r=_rest: op(images(x, n), kernels(2, 3, *r), W[:, 0], stride=2),
    )

# --- norms and reductions -------------------------------------------------------------------------
case(
    "layer_norm",
    lambda op, x: op(x * x, (4,), W[0], W[1]) + op(x, (3, 4)) * op(x, (4,), x[0], x[1]),
)
case("rms_norm", lambda op, x: op(x, (4,), W[0]) + op(x, (3, 4), eps=0.1) * op(x, (4,), x[0]))
case(
    "group_norm",
    lambda op, x: op(images(x, 2), 2, W[0, :2], W[1, :2]) + op(images(x, 2), 1, x[0, :2], x[1, :2]),
)
case(
    "batch_norm",
    lambda op, x: (
        op(x * x, W[0], P[0], W[1], W[2]) + op(x, W[0], P[0]) * op(x, W[0], P[0], x[0], x[1])
    ),
)
case(
    "instance_norm",
    lambda op, x: (
        op(images(x, 2), weight=W[0, :2], bias=W[1, :2])
        + op(images(x, 2), W[0, :2], P[0, :2], use_input_stats=False)
    ),
)
case(
    "local_response_norm",
    lambda op, x: op(images(x, 2), 2, alpha=0.5) + op(images(x, 1), 3)[..., None],
)
case("normalize", lambda op, x: op(x) + op(x, p=3.0, dim=0) + op(x * 1e-14))
case("sum mean", lambda op, x: x * op(x) + op(x * x, 0) * op(x, (0, 1), keepdim=True))
case("var std", lambda op, x: x * op(x) + op(x, -1, keepdim=True) * op(x, dim=(0, 1), correction=0))
case(
    "var_mean std_mean",
    lambda op, x: weighed([*op(x, 1), *op(x * x, dim=(0, 1), correction=0), *op(x)]),
)
case("norm", lambda op, x: x * op(x) + op(x, dim=1, keepdim=True) * op(x, 3.0, 0))
case("linalg.norm", lambda op, x: x * op(x) + op(x, dim=1, keepdim=True) * op(x, 3, dim=0))
case(
    "vector_norm",
    lambda op, x: (
        x * op(x)
        + op(x, 1, dim=1, keepdim=True) * op(x, torch.inf, dim=0)
        + op(x, 4) * op(x, -torch.inf)
    ),
)
case("cosine_similarity", lambda op, x: op(x, x * x) * op(W, x))
case("pairwise_distance", lambda op, x: op(x, x * x) + op(W, x, p=4.0))
case("cdist", lambda op, x: op(x, x * x - 1) + op(W - 3, x))
case("prod", lambda op, x: op(x) + op(x * x, 1, keepdim=True) * op(torch.cat([x, x * 0]), 0))
case("cumprod", lambda op, x: op(x, 0) + op(x, 1))
case("max min", lambda op, x: op(x) * op(x * x, 0)[0] + op(x, 1, keepdim=True)[0] + op(x, x * x))
case("median", lambda op, x: op(x) * op(x * x, 0)[0] + op(x, 1, keepdim=True)[0])
case("amax amin", lambda op, x: x * op(x) + op(x, 0) * op(x, (0, 1), keepdim=True))
case("sort", lambda op, x: op(x)[0] * op(x, 0, descending=True)[0])
case("topk", lambda op, x: op(x, 2)[0].sum(0)[0] * op(x, 2, dim=0)[0])
case("argmax argmin argsort", lambda op, x: x * op(x, 1).sum())
case("count_nonzero any all logical_not", lambda op, x: x * (1.0 + op(x > 0.2)) + 1.0 * op(x))
case("nonzero argwhere", lambda op, x: x * op(torch.where(MASK, x, 0.0)).sum())
case("logical_and logical_or logical_xor", lambda op, x: x + op(x, MASK) * 2.0)
case(
    "eq ne lt le gt ge not_equal less less_equal greater greater_equal __eq__ __ne__ __lt__ __le__ __gt__ "
    "__ge__ isclose",
    lambda op, x: x * op(x, W) + x * op(P, x) + x * op(x, x * x),
)
case("equal is_same_size allclose", lambda op, x: x * float(op(x, x)) + float(op(x, W)))
case("result_type", lambda op, x: x.to(op(x, W)))
case("isnan isinf isfinite isneginf isposinf isreal signbit", lambda op, x: x + op(x) * 1.0)
case("is_floating_point is_complex is_signed numel", lambda op, x: x * float(op(x)))
case("is_nonzero", lambda op, x: x * float(op(x[0, 0])))
case("rand_like randn_like", lambda op, x: x * op(x).shape[0])
