"""Every network: shapes, what it depends on, seeded weights, exact derivatives."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from meanflow_tune.models import MLP, MODEL_KINDS, DiT, Model, NetworkSettings, UNet
from tests.support.other_values import others

SHAPE = (2, 4, 4)
CLASSES = 3
# Of networks whose defaults are large; others are tested as they are by default.
SMALL: dict[type[NetworkSettings], NetworkSettings] = {
    MLP: MLP(width=16, blocks=2, time_features=8, condition_width=12),
    DiT: DiT(width=16, depth=2, heads=2, patch=2, mlp_ratio=2, time_features=8),
    UNet: UNet(width=8, heads=2, groups=4, time_features=8, condition_width=12),
}
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
every_kind = pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)


def small(kind: type[NetworkSettings]) -> NetworkSettings:
    return SMALL.get(kind) or kind()


def build(kind: type[NetworkSettings], seed: int = 0, classes: int | None = CLASSES) -> nn.Module:
    return small(kind).build(SHAPE, classes, torch.Generator().manual_seed(seed))


def inputs(batch: int = 5, dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *SHAPE, generator=generator, dtype=dtype)
    t = 0.8 * torch.rand(batch, generator=generator, dtype=dtype) + 0.1
    s = t + (0.95 - t) * torch.rand(batch, generator=generator, dtype=dtype)
    return x, t, s, torch.randint(CLASSES, (batch,), generator=generator)


@every_kind
def test_gives_one_finite_velocity_a_sample(kind: type[NetworkSettings]) -> None:
    for batch in (1, 5):
        x, t, s, label = inputs(batch)
        for classes, labels in ((CLASSES, label), (None, None)):
            u = build(kind, classes=classes)(x, t, s, labels)
            assert u.shape == x.shape
            assert u.dtype == x.dtype
            assert torch.isfinite(u).all()


def test_mlp_takes_points_of_the_plane() -> None:
    net = MLP(width=16).build((2,), None, torch.Generator())
    assert net(torch.ones(7, 2), torch.zeros(7), torch.ones(7)).shape == (7, 2)


@every_kind
def test_depends_on_every_input(kind: type[NetworkSettings]) -> None:
    net = build(kind)
    x, t, s, label = inputs()
    u = net(x, t, s, label)
    others = ((x + 0.1, t, s, label), (x, t - 0.05, s, label), (x, t, s + 0.05, label))
    for changed in (*others, (x, t, s, (label + 1) % CLASSES)):
        difference = (net(*changed) - u).flatten(1).abs().amax(dim=1)
        assert (difference > 1e-4).all()


@every_kind
def test_samples_do_not_see_each_other(kind: type[NetworkSettings]) -> None:
    net = build(kind).double()
    batch = inputs(dtype=torch.float64)
    whole = net(*batch)
    for i in range(len(whole)):
        alone = net(*(part[i : i + 1] for part in batch))
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-12, atol=1e-13)


@every_kind
def test_weights_come_from_the_generator_alone(kind: type[NetworkSettings]) -> None:
    state = torch.get_rng_state()
    first, second, other = build(kind, 0), build(kind, 0), build(kind, 1)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    batch = inputs()
    assert not torch.allclose(first(*batch), other(*batch))


@every_kind
def test_starts_near_zero_with_a_gradient_in_every_parameter(kind: type[NetworkSettings]) -> None:
    net = build(kind)
    x, t, s, label = inputs(32)
    u = net(x, t, s, label)
    assert 0.0 < float(u.detach().std()) < 0.5
    torch.autograd.backward((u - x).square().mean())
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0.0, name


@every_kind
def test_double_precision_agrees_with_single(kind: type[NetworkSettings]) -> None:
    single = build(kind)(*inputs())
    x, t, s, label = inputs()
    double = build(kind).double()(x.double(), t.double(), s.double(), label)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-6)


@every_kind
def test_state_dict_makes_another_network_equal(kind: type[NetworkSettings]) -> None:
    source, target = build(kind, 0), build(kind, 1)
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(source(*inputs()), target(*inputs()))


@every_kind
def test_every_setting_changes_the_result(kind: type[NetworkSettings]) -> None:
    def computed(settings: NetworkSettings) -> Tensor:
        net = settings.build(SHAPE, CLASSES, torch.Generator().manual_seed(0))
        out: Tensor = net(*inputs())
        return out

    u = computed(small(kind))
    for name, other in others(small(kind), works=computed):
        assert not torch.allclose(computed(other), u, atol=1e-6), name


@every_kind
def test_labels_are_neither_guessed_nor_ignored(kind: type[NetworkSettings]) -> None:
    x, t, s, label = inputs()
    with pytest.raises(ValueError, match=r"`label`.*3 classes"):
        build(kind)(x, t, s)
    with pytest.raises(ValueError, match=r"`label` must be None"):
        build(kind, classes=None)(x, t, s, label)


@every_kind
def test_settings_are_data(kind: type[NetworkSettings]) -> None:
    settings = small(kind)
    assert TypeAdapter(Model).validate_python(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValidationError, match="depht"):
        kind.model_validate({"depht": 2})


def test_parameter_counts() -> None:
    def count(net: nn.Module) -> int:
        return sum(parameter.numel() for parameter in net.parameters())

    w, c, f, d = 16, 12, 8, 32
    condition = (2 * f + 1) * c + (c + 1) * c + CLASSES * c
    blocks = 2 * 2 * (w + 1) * w + (c + 1) * (2 * 3 * w + 1)
    assert count(build(MLP)) == condition + blocks + (d + 1) * w + (w + 1) * d

    tokens, patch = 4, 8
    condition = (2 * f + 1) * w + (w + 1) * w + CLASSES * w
    block = (w + 1) * 3 * w + (w + 1) * w + (w + 1) * 2 * w + (2 * w + 1) * w
    ends = (patch + 1) * w + tokens * w + (w + 1) * patch
    assert count(build(DiT)) == condition + 2 * block + (w + 1) * (6 * 2 + 2) * w + ends

    c, x, w, h = 12, 2, 8, 16  # w channels at the full resolution, h at half of it
    condition = (2 * f + 1) * c + (c + 1) * c + CLASSES * c + (c + 1) * (2 * (3 * w + h) + 1)
    down = 9 * (x * w + 2 * w * w + w * w + w * h + h * h) + w * h
    up = 9 * (h * w + 2 * w * w + w * w + w * x) + 2 * w * w
    biases, norms = 5 * w + h + x, 2 * (4 * w + h)
    attention = (h + 1) * 3 * h + (h + 1) * h
    assert count(build(UNet)) == condition + down + up + biases + norms + attention


def test_unet_takes_digits_colour_images_and_oblong_ones() -> None:
    for shape in ((1, 8, 8), (3, 32, 32), (2, 4, 6)):
        net = UNet().build(shape, None, torch.Generator().manual_seed(0))
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
        assert net(x, torch.zeros(2), torch.ones(2)).shape == x.shape


def test_unet_attends_only_at_the_levels_named() -> None:
    """Without attention a pixel sees its neighbourhood only, with it the whole image."""
    x = torch.randn(1, 1, 64, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved, t = x.clone(), torch.zeros(1, dtype=torch.float64)
    moved[0, 0, 0, 0] += 1.0
    for attention, whole in (((), False), ((1,), True), ((0,), True)):
        net = UNet(width=8, groups=8, heads=2, attention=attention).build(
            (1, 64, 4), None, torch.Generator().manual_seed(0)
        )
        # Group norms are taken off, for they too carry news of one pixel everywhere.
        for module in net.modules():
            if isinstance(module, nn.GroupNorm):
                module.forward = lambda h: h  # type: ignore[method-assign]
        net.double()
        changed = (net(moved, t, t + 1) != net(x, t, t + 1))[0, 0]
        assert changed[0, 0]
        assert bool(changed[-1].any()) == whole


def test_dit_patches_are_put_back_where_they_were() -> None:
    net = DiT(width=16, depth=1, heads=2, patch=2, time_features=8).build(
        (1, 4, 6), None, torch.Generator().manual_seed(0)
    )
    # With attention off a token sees its own patch only.
    for block in net.blocks:
        nn.init.zeros_(block.project.weight)
    x, t = torch.linspace(-1, 1, 24).reshape(1, 1, 4, 6), torch.zeros(1)
    moved = x.clone()
    moved[0, 0, 1, 3] += 1.0
    changed = (net(moved, t, t + 1) != net(x, t, t + 1))[0, 0]
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[0:2, 2:4] = True
    assert torch.equal(changed, expected)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValidationError, match=r"`heads` must divide `width`.*heads=3.*width=64"):
        DiT(heads=3)
    with pytest.raises(ValidationError, match="time_features"):
        MLP(time_features=5)
    for shape in ((1, 8, 9), (2,)):
        with pytest.raises(ValueError, match=r"multiples of `patch`.*patch=2"):
            DiT().build(shape, None, torch.Generator())
    with pytest.raises(ValidationError, match=r"`groups` must divide `width`.*groups=5"):
        UNet(groups=5)
    with pytest.raises(ValidationError, match=r"`heads` must divide the channels.*heads=3"):
        UNet(heads=3)
    for attention in ((2,), (1, 1)):
        with pytest.raises(ValidationError, match="`attention` must name each level once"):
            UNet(attention=attention)
    with pytest.raises(ValidationError, match="multipliers"):
        UNet(multipliers=(1,))
    for shape in ((1, 8, 9), (2,)):
        with pytest.raises(ValueError, match=r"multiples of 2\^\(levels - 1\) = 2"):
            UNet().build(shape, None, torch.Generator())
    with pytest.raises(ValueError, match=r"would hold one number.*groups=32"):
        UNet(width=32, groups=32, multipliers=(1, 1)).build((1, 2, 2), None, torch.Generator())


@every_kind
def test_jet_equals_central_differences(kind: type[NetworkSettings]) -> None:
    from meanflow_tune.core.jets import velocity_jet

    net = build(kind).double()
    # Larger weights than the initial ones: every derivative is then far from zero.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.2 * noise
    x, t, s, label = inputs(dtype=torch.float64)
    v = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def differences(h: float) -> dict[str, Tensor]:
        def u(along: int, end: int) -> Tensor:
            out: Tensor = net(x + along * h * v, t + along * h, s + end * h, label)
            return out

        mixed = (u(1, 1) - u(1, -1) - u(-1, 1) + u(-1, -1)) / (4 * h * h)
        return {
            "u": u(0, 0),
            "d_s": (u(0, 1) - u(0, -1)) / (2 * h),
            "d_t": (u(1, 0) - u(-1, 0)) / (2 * h),
            "d_t_d_s": mixed,
        }

    with torch.no_grad():
        jet = velocity_jet(net, x, t, s, v, label=label)
        coarse, fine = differences(4e-4), differences(2e-4)
    for name in fine:
        # Their error starts with h²: this combination is free of it.
        value = (4 * fine[name] - coarse[name]) / 3
        scale = float(value.abs().max())
        assert scale > 1e-2, name
        torch.testing.assert_close(getattr(jet, name), value, rtol=0.0, atol=1e-6 * scale)
