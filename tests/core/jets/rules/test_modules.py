"""Stock modules of torch.nn, unmodified, against central differences; those with kinks next to them."""

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from meanflow_tune.core.jets import Jet, NonSmoothWarning
from tests.support.jets.networks import relative_error

LINE, IMAGE, VOLUME = (2, 4, 6), (2, 4, 4, 6), (2, 4, 4, 4, 4)


def at_rest(module: nn.Module) -> nn.Module:
    """In eval, with running statistics that are not 0 and 1."""
    module.running_mean.copy_(torch.linspace(-0.5, 0.5, 4))  # type: ignore[operator,union-attr]
    module.running_var.copy_(torch.linspace(0.5, 2.0, 4))  # type: ignore[operator,union-attr]
    return module.eval()


MODULES: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "Identity": (LINE, nn.Identity),
    "Linear": (LINE, lambda: nn.Linear(6, 3)),
    "LazyLinear": (LINE, lambda: nn.LazyLinear(3)),
    "weight_norm": (LINE, lambda: parametrizations.weight_norm(nn.Linear(6, 3))),
    "spectral_norm": (LINE, lambda: parametrizations.spectral_norm(nn.Linear(6, 3)).eval()),
    "orthogonal": (LINE, lambda: parametrizations.orthogonal(nn.Linear(6, 3))),
    "Conv1d": (LINE, lambda: nn.Conv1d(4, 6, 3, padding="same", groups=2)),
    "Conv1d unbatched": ((4, 6), lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="replicate")),
    "Conv2d": (IMAGE, lambda: nn.Conv2d(4, 3, 3, 2, 1, padding_mode="circular")),
    "Conv3d": (VOLUME, lambda: nn.Conv3d(4, 3, 2, dilation=2)),
    "ConvTranspose1d": (LINE, lambda: nn.ConvTranspose1d(4, 3, 3, 2, output_padding=1)),
    "ConvTranspose2d": (IMAGE, lambda: nn.ConvTranspose2d(4, 4, 3, groups=4)),
    "ConvTranspose3d": (VOLUME, lambda: nn.ConvTranspose3d(4, 3, 2, bias=False)),
    "LayerNorm": (IMAGE, lambda: nn.LayerNorm((4, 6))),
    "LayerNorm without bias": (LINE, lambda: nn.LayerNorm(6, bias=False)),
    "RMSNorm": (LINE, lambda: nn.RMSNorm(6)),
    "GroupNorm": (VOLUME, lambda: nn.GroupNorm(2, 4)),
    "InstanceNorm1d": (LINE, lambda: nn.InstanceNorm1d(4)),
    "InstanceNorm1d unbatched": ((4, 6), lambda: nn.InstanceNorm1d(4, affine=True)),
    "InstanceNorm2d": (IMAGE, lambda: nn.InstanceNorm2d(4, affine=True)),
    "InstanceNorm3d": (VOLUME, lambda: nn.InstanceNorm3d(4)),
    "InstanceNorm1d at rest": (
        LINE,
        lambda: at_rest(nn.InstanceNorm1d(4, affine=True, track_running_stats=True)),
    ),
    "InstanceNorm2d at rest": (
        IMAGE,
        lambda: at_rest(nn.InstanceNorm2d(4, track_running_stats=True)),
    ),
    "InstanceNorm3d at rest": (
        VOLUME,
        lambda: at_rest(nn.InstanceNorm3d(4, affine=True, track_running_stats=True)),
    ),
    "BatchNorm1d at rest": (LINE, lambda: at_rest(nn.BatchNorm1d(4))),
    "BatchNorm2d at rest": (IMAGE, lambda: at_rest(nn.BatchNorm2d(4, affine=False))),
    "BatchNorm3d at rest": (VOLUME, lambda: at_rest(nn.BatchNorm3d(4))),
    "SyncBatchNorm at rest": (IMAGE, lambda: at_rest(nn.SyncBatchNorm(4))),
    "LocalResponseNorm": (IMAGE, lambda: nn.LocalResponseNorm(3, alpha=0.5)),
    "AvgPool1d": (LINE, lambda: nn.AvgPool1d(3, 1, 1, count_include_pad=False)),
    "AvgPool2d": (IMAGE, lambda: nn.AvgPool2d(2)),
    "AvgPool3d": (VOLUME, lambda: nn.AvgPool3d(2)),
    "AdaptiveAvgPool1d": (LINE, lambda: nn.AdaptiveAvgPool1d(3)),
    "AdaptiveAvgPool2d": (IMAGE, lambda: nn.AdaptiveAvgPool2d((None, 3))),
    "AdaptiveAvgPool3d": (VOLUME, lambda: nn.AdaptiveAvgPool3d(1)),
    "MaxPool1d": (LINE, lambda: nn.MaxPool1d(2, 1, 1)),
    "MaxPool2d": (IMAGE, lambda: nn.MaxPool2d(2, ceil_mode=True)),
    "MaxPool3d": (VOLUME, lambda: nn.MaxPool3d(2)),
    "AdaptiveMaxPool1d": (LINE, lambda: nn.AdaptiveMaxPool1d(2)),
    "AdaptiveMaxPool2d": (IMAGE, lambda: nn.AdaptiveMaxPool2d(2)),
    "AdaptiveMaxPool3d": (VOLUME, lambda: nn.AdaptiveMaxPool3d(2)),
    "LPPool1d": (LINE, lambda: nn.LPPool1d(2, 2)),
    "LPPool2d": (IMAGE, lambda: nn.LPPool2d(2, 2)),
    "ReflectionPad1d": (LINE, lambda: nn.ReflectionPad1d(2)),
    "ReplicationPad2d": (IMAGE, lambda: nn.ReplicationPad2d((1, 0, 2, 0))),
    "CircularPad3d": (VOLUME, lambda: nn.CircularPad3d(1)),
    "ZeroPad2d": (IMAGE, lambda: nn.ZeroPad2d((1, -1, 0, 2))),
    "ConstantPad1d": (LINE, lambda: nn.ConstantPad1d(1, 3.5)),
    "Upsample": (IMAGE, lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
    "UpsamplingBilinear2d": (IMAGE, lambda: nn.UpsamplingBilinear2d(scale_factor=2)),
    "UpsamplingNearest2d": (IMAGE, lambda: nn.UpsamplingNearest2d(scale_factor=2)),
    "PixelShuffle": (IMAGE, lambda: nn.PixelShuffle(2)),
    "PixelUnshuffle": (IMAGE, lambda: nn.PixelUnshuffle(2)),
    "ChannelShuffle": (IMAGE, lambda: nn.ChannelShuffle(2)),
    "Unfold": (IMAGE, lambda: nn.Unfold(2, padding=1)),
    "Fold": (LINE, lambda: nn.Fold((3, 4), 2)),
    "Flatten": (IMAGE, nn.Flatten),
    "Unflatten": (LINE, lambda: nn.Unflatten(1, (2, 2))),
    "Softmax2d": (IMAGE, nn.Softmax2d),
    "Threshold": (LINE, lambda: nn.Threshold(0.1, -1.0)),
    "ReLU in place": (LINE, lambda: nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))),
    "PReLU of channels": (IMAGE, lambda: nn.PReLU(4)),
    "Dropout at rest": (LINE, lambda: nn.Sequential(*_dropouts()).eval()),
    "TransformerDecoderLayer": (
        LINE,
        lambda: Memory(
            nn.TransformerDecoderLayer(6, 2, 8, 0.0, nn.functional.gelu, batch_first=True)
        ),
    ),
    "Bilinear": (LINE, lambda: Twice(nn.Bilinear(6, 6, 3))),
    "CosineSimilarity": (LINE, lambda: Twice(nn.CosineSimilarity(dim=1))),
    "PairwiseDistance": (LINE, lambda: Twice(nn.PairwiseDistance())),
}


class Twice(nn.Module):
    """A module of two operands, given x and sin x."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, torch.sin(x))  # type: ignore[no-any-return]


class Memory(Twice):
    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(4, dtype=x.dtype)
        return self.module(x, torch.sin(x), tgt_mask=mask, tgt_is_causal=True)  # type: ignore[no-any-return]


def _dropouts() -> list[nn.Module]:
    return [nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonSmoothWarning)
        yield


@pytest.mark.parametrize("name", MODULES)
def test_module_against_central_differences(name: str) -> None:
    shape, build = MODULES[name]
    torch.manual_seed(3)
    module = build().double()
    generator = torch.Generator().manual_seed(4)
    x, a, b, ab = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    step = 1e-3
    stencil = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))

    def at(i: float, k: float) -> Tensor:
        moved = x + i * step * a + k * step * b + i * k * step * step * ab
        return module(moved)  # type: ignore[no-any-return]

    with torch.no_grad():
        expected = torch.stack(
            [
                at(0, 0),
                sum(w / step * at(i, 0) for i, w in stencil),  # type: ignore[list-item]
                sum(w / step * at(0, k) for k, w in stencil),  # type: ignore[list-item]
                sum(p * q / step**2 * at(i, k) for i, p in stencil for k, q in stencil),  # type: ignore[list-item]
            ]
        )
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            full = module(Jet(torch.stack([x, a, b, ab]))).parts
            first = module(Jet(torch.stack([x, a]))).parts
        for found, truth in zip((*full, *first), (*expected, *expected[:2]), strict=True):
            assert relative_error(found, truth) < 1e-7
