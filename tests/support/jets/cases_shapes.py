"""Cases of operators that move, select, copy or write elements, added to those of `cases`."""

from typing import Any

import torch

from tests.support.jets.cases import (
    CASES,
    COLUMNS,
    MASK,
    ROWS,
    P,
    W,
    case,
    images,
    kernels,
    weighed,
)

ALL_CASES = CASES  # this module completes them

# --- shapes ---------------------------------------------------------------------------------------
case("view", lambda op, x: op(x, 2, 6) * op(x * x, (2, -1)))
case("reshape", lambda op, x: op(x, (2, 6)) * op(x * x, (2, -1)))
case("reshape_as view_as", lambda op, x: op(x, torch.zeros(2, 6)) * op(P, x.reshape(2, 6)))
case("flatten", lambda op, x: op(x[None], 0, 1) * op(x, 1))
case("unflatten", lambda op, x: op(x, 1, (2, 2)) * op(x, -1, (2, 2)))
case("ravel t adjoint clone contiguous cpu double detach", lambda op, x: op(x * x) * 2.0)
case("float", lambda op, x: x + 0.0 * op(x).double())
case("half", lambda op, x: x + 0.0 * op(x).double())
case("bfloat16", lambda op, x: x + 0.0 * op(x).double())
case("to", lambda op, x: op(x, torch.float64) * op(x, W) * op(x, x) + op(x, "cpu") * op(P, x))
case("type", lambda op, x: op(x, torch.float64) * x)
case("type_as", lambda op, x: op(x, W) * x + op(P, x))
case("permute", lambda op, x: op(x, (1, 0)))
case("transpose swapaxes swapdims", lambda op, x: op(x, 0, -1) * 2.0)
case("transpose_ swapaxes_ swapdims_", lambda op, x: op(x * 1, 0, -1))
case("t_", lambda op, x: op(x * 1))
case(
    "movedim moveaxis",
    lambda op, x: op(x[None], 0, -1)[..., 0] * op(x[None], (0, 1), (1, 2))[:, 0].mT,
)
case("unsqueeze", lambda op, x: op(x, 0) * op(x, -2).movedim(1, 0))
case("unsqueeze_", lambda op, x: op(x * 1, -1))
case("squeeze", lambda op, x: op(x[None, :, None]) * op(x[None], 0) * op(x[..., None], (0, -1)))
case("squeeze_", lambda op, x: op(x[None] * 1, 0))
case("expand broadcast_to", lambda op, x: op(x, (2, 3, 4)) * op(x[:1], (3, -1)))
case("expand_as", lambda op, x: op(x[0], x) * op(W[0], x) * op(x[:, :1], W))
case("broadcast_tensors", lambda op, x: weighed(op(x, x[0] * 2, W[:, :1])))
case("atleast_1d atleast_2d atleast_3d", lambda op, x: op(x) * op(x[0, 0]) * op(x[0]))
case("chunk unsafe_chunk tensor_split", lambda op, x: weighed([*op(x, 2, 1), *op(x, 3)]))
case("unsafe_split", lambda op, x: weighed([*op(x, 2, 1), *op(x, 2)]))
case("split", lambda op, x: weighed([*op(x, 2, 1), *op(x, [1, 2])]))
case("split_with_sizes", lambda op, x: weighed([*op(x, [3, 1], 1), *op(x, [1, 2])]))
case("unbind", lambda op, x: weighed([*op(x), *op(x * x, 1)]))
case("hsplit vsplit", lambda op, x: weighed([*op(x[:, :3].mT @ x, [1]), *op(x, [1, 2])]))
case("dsplit", lambda op, x: weighed(op(x[None] * x[:, None], 2)))
case("cat concat concatenate", lambda op, x: op([W, x * x, P], 0) * op((x,) * 3))
case("stack", lambda op, x: op([W, x * x], 1) * op([x, x], dim=1))
case("hstack vstack row_stack dstack column_stack", lambda op, x: op([x * x, W, x]) * 2.0)
case("narrow", lambda op, x: op(x, 1, 1, 2) * op(x, 0, 0, 3)[:, :2])
case("select", lambda op, x: op(x, 1, 2) * op(x, -1, -1))
case("diagonal", lambda op, x: op(x) * op(x, 1))
case("linalg.diagonal", lambda op, x: op(x) * op(x, offset=1))
case("diag", lambda op, x: op(x) * op(x, 1) + op(x[0])[:3, 1])
case("diag_embed", lambda op, x: op(x) * x[..., None])
case("Tensor.unfold", lambda op, x: op(x, 1, 2, 1) * x[..., :3, None])
case("F.unfold", lambda op, x: op(images(x, 2), 2) * 2.0)
case("torch.adaptive_max_pool1d", lambda op, x: op(images(x, 1), 2)[0] ** 2)
case("fold", lambda op, x: op(x[None, :, :].repeat(1, 4, 1)[:, :8], (3, 3), 2) * 2.0)
case("index_select", lambda op, x: op(x, 0, ROWS) * x)
case("gather", lambda op, x: op(x, 1, COLUMNS) * x)
case("take_along_dim", lambda op, x: op(x, COLUMNS, 1) * x)
case("take", lambda op, x: op(x, COLUMNS) * x)
case("masked_select", lambda op, x: op(x * x, MASK) * 2.0)
case("repeat tile", lambda op, x: op(x, (2, 1)) * op(x, (2, 1)))
case("repeat_interleave", lambda op, x: op(x, 2, dim=1) * 2.0)
case("flip", lambda op, x: op(x, (0,)) * x)
case("fliplr flipud", lambda op, x: op(x) * x)
case("rot90", lambda op, x: op(x) * op(x, 1, (0, 1)))
case("roll", lambda op, x: op(x, 1, 1) * x)
case("tril triu", lambda op, x: op(x) * op(x, 1))
case("cumsum", lambda op, x: op(x, 1) * op(x, 0))
case("diff", lambda op, x: op(x) * op(x, dim=1))
case(
    "__getitem__",
    lambda op, x: op(x, ROWS) * op(x, (slice(None), [3, 1, 0, 2])) + op(x, 1) + op(x, MASK)[0],
)
case(
    "pad",
    lambda op, x: (
        sum(
            op(images(x, 2), (1, 2, 0, 1), mode) ** 2
            for mode in ("reflect", "replicate", "circular")
        )
        + op(images(x, 2), (1, 2, 0, 1), value=2.0)
    ),
)
case(
    "interpolate upsample",
    lambda op, x: (
        sum(
            op(images(x, 2), scale_factor=2, mode=mode)
            for mode in ("nearest", "bilinear", "bicubic")
        )
        + op(images(x, 1), size=8, mode="linear", align_corners=True)[..., None]
        + op(images(x, 3), size=(8, 8, 8), mode="trilinear")[:, :, 0]
        + op(images(x, 2), size=(8, 8), mode="area")
    ),
)
case("pixel_shuffle", lambda op, x: op(images(x, 2).reshape(1, 4, 4, 4), 2) * 2.0)
case("pixel_unshuffle", lambda op, x: op(images(x, 2), 2) * 2.0)
case(
    "channel_shuffle",
    lambda op, x: op(images(x, 2).reshape(1, 4, 4, 4), 2) * 2.0,
)
case(
    "grid_sample",
    lambda op, x: op(images(x, 2), kernels(2, 3, 3, 2) * 0.9, align_corners=False) * 2.0,
)
for _n in (1, 2, 3):
    case(f"avg_pool{_n}d", lambda op, x, n=_n: op(images(x, n), 2, 1) * 2.0)
    case(f"lp_pool{_n}d", lambda op, x, n=_n: op(images(x, n) + 2, 2.0, 2))
    for _kind in ("adaptive_avg_pool", "adaptive_max_pool"):
        case(f"{_kind}{_n}d", lambda op, x, n=_n: op(images(x, n), 2) * op(images(x, n), 2))
    case(f"max_pool{_n}d", lambda op, x, n=_n: op(images(x, n), 2) * op(images(x, n), 2))
    case(f"max_pool{_n}d_with_indices", lambda op, x, n=_n: op(images(x, n), 2)[0] ** 2)
    case(f"adaptive_max_pool{_n}d_with_indices", lambda op, x, n=_n: op(images(x, n), 2)[0] ** 2)
case(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout",
    lambda op, x: op(x[None], 0.5, False)[0] * x,
)

# --- constants and writing ------------------------------------------------------------------------
case("zeros_like ones_like", lambda op, x: x * op(x) + op(x, dtype=torch.int64))
case("empty_like", lambda op, x: x + 0.0 * torch.nan_to_num(op(W)) + op(x).copy_(x * x))
case("full_like", lambda op, x: x * op(x, 2.0))
case("new_zeros new_ones", lambda op, x: x * op(x, 3, 4) + op(x, (3, 4)).copy_(x * x))
case("new_empty", lambda op, x: op(x, (3, 4)).copy_(x * x))
case("new_full", lambda op, x: x * op(x, (3, 4), 2.0))


def _assigned(op: Any, x: Any) -> Any:
    y = torch.zeros_like(x)
    op(y, (slice(None), 0), x[:, 1] * x[:, 2])
    op(y, (..., slice(1, 3)), x[:, 2:])
    op(y, MASK & (W > 1), 2.0)
    op(y, (ROWS, ROWS), x[0, :3])
    return y * x


case("__setitem__", _assigned)
case("copy_", lambda op, x: op(x * 1, x[0] * x[1]) * op(x * 1, W) * x)
case("fill_", lambda op, x: op(x * 1, 2.0) * x + op(x * 1, x[0, 0]))
case("zero_", lambda op, x: op(x * 1) + x)
case(
    "scatter scatter_ scatter_add scatter_add_",
    lambda op, x: op(x * 1, 1, COLUMNS[[0, 0, 0]], x * x) * x,
)
case(
    "index_add index_add_",
    lambda op, x: op(x * 1, 0, ROWS, x * x, alpha=2.0) * op(x * 1, 0, ROWS, W),
)
case("index_copy index_copy_", lambda op, x: op(x * 1, 0, ROWS[:2], (x * x)[:2]) * x)
case("index_fill index_fill_", lambda op, x: op(x * 1, 1, ROWS[:2], 2.0) * x)
case("masked_scatter masked_scatter_", lambda op, x: op(x * 1, MASK, x * x) * x)
case("index_put index_put_", lambda op, x: op(x * 1, (ROWS, ROWS), x[0, :3] * x[1, :3]) * x)

# --- complex numbers and Fourier transforms ---------------------------------------------------------
Z = torch.complex(W, P)


def of_complex(z: Any) -> Any:
    """Real numbers of complex ones, by products of them."""
    return torch.view_as_real(z * z * (0.3 + 0.7j) + z + 1j)


def two(x: Any) -> Any:
    return x * Z + x * x


case("view_as_complex", lambda op, x: of_complex(op(x.reshape(3, 2, 2))) * op(x[:, :2]).imag[0])
case("view_as_real", lambda op, x: op(two(x)) * op(Z * x.sum()))
case("real imag", lambda op, x: op(two(x)) * x)
case("complex", lambda op, x: of_complex(op(x, x * x) + op(W, x) + op(x, P)))
case("polar", lambda op, x: of_complex(op(x, x * x) + op(P, x) + op(x, W)))
case("angle", lambda op, x: op(two(x) + 3) + op(x))
case("conj conj_physical", lambda op, x: of_complex(op(two(x)) * two(x) + op(x)))
case("resolve_conj resolve_neg", lambda op, x: of_complex(op(two(x).conj()) * two(x)))
case("cfloat", lambda op, x: x + 0.0 * op(x).real.double())
case("cdouble", lambda op, x: of_complex(op(x) * op(two(x))))
case("fft.fft fft.ifft", lambda op, x: of_complex(op(x * x) + op(two(x), 4, 0)[:3] + op(x, dim=1)))
case("fft.rfft fft.ihfft", lambda op, x: of_complex(op(x * x) * op(x, dim=-1, norm="ortho")))
case("fft.irfft fft.hfft", lambda op, x: op(two(x), 4) * op(two(x), n=4, dim=-1) * x)
case("fft.fft2 fft.ifft2 fft.fftn fft.ifftn", lambda op, x: of_complex(op(two(x)) + op(x)))
case("fft.rfft2 fft.rfftn fft.ihfft2 fft.ihfftn", lambda op, x: of_complex(op(x * x) * op(x)))
case("fft.irfft2 fft.irfftn fft.hfft2 fft.hfftn", lambda op, x: op(two(x)).sin())
case("fft.fftshift fft.ifftshift", lambda op, x: op(x * x, 1) * op(x))
HANN = torch.hann_window(4, dtype=torch.float64)
case(
    "stft",
    lambda op, x: of_complex(
        op((x * x).reshape(-1), 4, 2, window=HANN, return_complex=True)
        * op(x, 4, hop_length=2, window=HANN, return_complex=True, pad_mode="constant")[0, :, :1]
    ),
)
case("istft", lambda op, x: op(two(x), 4, 2, window=HANN) * op(two(x), 4, 2, 4, HANN, length=6))
