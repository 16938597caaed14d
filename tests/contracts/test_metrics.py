"""Every metric: what it refuses, its order of better and worse, and its closed form."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.linalg
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from meanflow_tune.core.types import DataSplit
from meanflow_tune.data import Digits, EightGaussians
from meanflow_tune.metrics import (
    METRIC_KINDS,
    Classifier,
    FrechetFeatures,
    FrechetPixels,
    Metric,
    MetricSettings,
    NonFiniteSamples,
    Reference,
    SlicedWasserstein,
    TeacherGap,
    build_classifier,
    features,
    train_classifier,
)
from meanflow_tune.metrics.frechet import frechet_distance
from tests.support.other_values import others

every_kind = pytest.mark.parametrize("kind", METRIC_KINDS, ids=lambda kind: kind.__name__)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_rows(count: int, mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """[count, F] whose sample mean and covariance are exactly those given."""
    z = normal(count, len(mean), seed=seed)
    z = z - z.mean(dim=0)
    white = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / (count - 1))).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def square_map(x: Tensor) -> Tensor:
    return torch.cat((x.flatten(1), x.flatten(1).square()), dim=1)


def against(held_out: Tensor, seed: int = 0) -> Reference:
    """A reference for metrics that look at held-out data only."""
    return Reference(teacher_end=held_out[:0], held_out=held_out, seed=seed)


@pytest.fixture
def reference() -> Reference:
    return Reference(
        held_out=normal(300, 1, 2, 2, seed=0).float(),
        teacher_end=normal(200, 1, 2, 2, seed=1).float(),
        features=square_map,
        seed=5,
    )


@pytest.fixture
def samples(reference: Reference) -> Tensor:
    return reference.teacher_end + 0.1 * normal(200, 1, 2, 2, seed=2).float()


@pytest.fixture(scope="module")
def digits() -> DataSplit:
    return Digits().load()


@pytest.fixture(scope="module")
def classifier(digits: DataSplit) -> Classifier:
    return train_classifier(digits, seed=0)


@every_kind
def test_is_a_reproducible_number(
    kind: type[MetricSettings], samples: Tensor, reference: Reference
) -> None:
    before, state = samples.clone(), torch.get_rng_state()
    value = kind().compute(samples, reference)
    assert type(value) is float
    assert value > 0.0
    assert kind().compute(samples, reference) == value
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(samples, before)


@every_kind
def test_gets_worse_with_every_degree_of_damage(
    kind: type[MetricSettings], samples: Tensor, reference: Reference
) -> None:
    noise = normal(200, 1, 2, 2, seed=3).float()
    values = [kind().compute(samples + size * noise, reference) for size in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    assert values[-1] > 2 * values[0]


@every_kind
def test_refuses_broken_samples(
    kind: type[MetricSettings], samples: Tensor, reference: Reference
) -> None:
    samples[3, 0, 1, 1] = math.nan
    samples[7] = math.inf
    with pytest.raises(NonFiniteSamples, match="2 of 200"):
        kind().compute(samples, reference)
    assert issubclass(NonFiniteSamples, ArithmeticError)


@every_kind
def test_refuses_other_shapes(
    kind: type[MetricSettings], samples: Tensor, reference: Reference
) -> None:
    with pytest.raises(ValueError, match=r"same dimensions.*\(200, 1, 2\).*\(300, 1, 2, 2\)"):
        kind().compute(samples[..., 0], reference)


@every_kind
def test_only_what_needs_a_teacher_refuses_to_be_without_one(
    kind: type[MetricSettings], samples: Tensor, reference: Reference
) -> None:
    alone = replace(reference, teacher_end=None)
    if kind.needs_teacher:
        with pytest.raises(ValueError, match=f"metric '{kind().kind}' needs a teacher"):
            kind().compute(samples, alone)
    else:
        assert kind().compute(samples, alone) == kind().compute(samples, reference)


@every_kind
def test_settings_are_data(kind: type[MetricSettings]) -> None:
    assert TypeAdapter(Metric).validate_python(kind().model_dump(mode="json")) == kind()
    assert kind().name == kind().kind
    with pytest.raises(ValidationError, match="projektions"):
        kind.model_validate({"projektions": 2})


@every_kind
def test_every_setting_changes_the_value(
    kind: type[MetricSettings], samples: Tensor, reference: Reference
) -> None:
    for name, other in others(kind()):
        assert other.compute(samples, reference) != kind().compute(samples, reference), name


@pytest.mark.parametrize("kind", [SlicedWasserstein, FrechetPixels, FrechetFeatures])
def test_sets_have_no_order(
    kind: type[MetricSettings], samples: Tensor, reference: Reference
) -> None:
    value = kind().compute(samples.flip(0), reference)
    assert value == pytest.approx(kind().compute(samples, reference), rel=1e-9)


def test_teacher_gap_of_a_shift_is_the_shift(reference: Reference) -> None:
    value = TeacherGap().compute(reference.teacher_end.double() - 0.25, reference)
    assert value == pytest.approx(0.25, rel=1e-12)
    half = reference.teacher_end.double().clone()
    half[:, :, 0] += 0.3
    assert TeacherGap().compute(half, reference) == pytest.approx(0.3 / math.sqrt(2), rel=1e-12)


def test_teacher_gap_is_paired(samples: Tensor, reference: Reference) -> None:
    paired = TeacherGap().compute(samples, reference)
    assert TeacherGap().compute(samples.flip(0), reference) > 5 * paired
    with pytest.raises(ValueError, match="same latents"):
        TeacherGap().compute(samples[:100], reference)


def test_sliced_wasserstein_on_a_line_is_the_distance_of_sorted_values() -> None:
    a, b = normal(400, 1, seed=0), 2 * normal(400, 1, seed=1) + 1
    expected = float((a.sort(dim=0).values - b.sort(dim=0).values).square().mean().sqrt())
    value = SlicedWasserstein(projections=3).compute(a, against(b))
    assert value == pytest.approx(expected, rel=1e-12)


def test_sliced_wasserstein_of_a_shift() -> None:
    # W2 of a shifted line is the shift; (θ·δ)² has the mean |δ|² / dimensions on the sphere.
    x, shift = normal(50, 6, seed=0), normal(6, seed=1)
    metric = SlicedWasserstein(projections=4_000)
    expected = float(shift.norm()) / math.sqrt(6)
    assert metric.compute(x + shift, against(x)) == pytest.approx(expected, rel=0.04)


def test_sliced_wasserstein_draws_from_the_seed_of_the_reference() -> None:
    x, y = normal(60, 3, seed=0), normal(60, 3, seed=1)
    metric = SlicedWasserstein(projections=4)
    first, second = (metric.compute(x, against(y, seed=seed)) for seed in (0, 1))
    assert first != second
    # Folded seeds have 63 bits.
    assert metric.compute(x, against(y, seed=2**62 + 5)) not in (first, second)
    more = SlicedWasserstein(projections=8).compute(x, against(y, seed=0))
    assert more != first


def test_frechet_distance_of_gaussians() -> None:
    mean_a, mean_b = normal(4, seed=0), normal(4, seed=1)
    factor_a, factor_b = normal(4, 4, seed=2), normal(4, 4, seed=3)
    cov_a = factor_a @ factor_a.T + torch.eye(4, dtype=torch.float64)
    cov_b = factor_b @ factor_b.T + torch.eye(4, dtype=torch.float64)
    root = torch.from_numpy(scipy.linalg.sqrtm((cov_a @ cov_b).numpy()).real)
    expected = float((mean_a - mean_b).square().sum() + (cov_a + cov_b - 2 * root).diagonal().sum())
    a = gaussian_rows(50, mean_a, cov_a, seed=4)
    b = gaussian_rows(70, mean_b, cov_b, seed=5)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    images = against(b.reshape(-1, 1, 2, 2))
    value = FrechetPixels().compute(a.reshape(-1, 1, 2, 2), images)
    assert value == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_far_from_the_origin_with_a_constant_pixel() -> None:
    variances_a = torch.tensor([1.0, 4.0], dtype=torch.float64)
    variances_b = torch.tensor([9.0, 1.0], dtype=torch.float64)
    far = torch.full((2,), 1e6, dtype=torch.float64)
    a = gaussian_rows(40, far + 1, variances_a.diag(), seed=0)
    b = gaussian_rows(40, far, variances_b.diag(), seed=1)
    a, b = (torch.cat((x, torch.zeros(40, 1, dtype=torch.float64)), dim=1) for x in (a, b))
    # |(1, 1)|² + (√1 - √9)² + (√4 - √1)²
    assert frechet_distance(a, b) == pytest.approx(2.0 + 4.0 + 1.0, rel=1e-7)


def test_frechet_features_is_the_distance_of_the_features(
    samples: Tensor, reference: Reference
) -> None:
    expected = frechet_distance(
        square_map(samples).double(), square_map(reference.held_out).double()
    )
    assert FrechetFeatures().compute(samples, reference) == pytest.approx(expected, rel=1e-12)
    pixels = FrechetPixels().compute(samples, reference)
    assert pixels != pytest.approx(expected, rel=0.05)


def test_frechet_features_refuses_features_that_overflow(reference: Reference) -> None:
    with pytest.raises(NonFiniteSamples, match="features"):
        FrechetFeatures().compute(torch.full((10, 1, 2, 2), 1e30), reference)


def test_frechet_features_asks_for_features(samples: Tensor, reference: Reference) -> None:
    with pytest.raises(ValueError, match=r"needs `features`.*leave the metric out"):
        FrechetFeatures().compute(samples, against(reference.held_out))


def test_frechet_needs_two_samples(reference: Reference) -> None:
    with pytest.raises(ValueError, match=r"at least 2 samples.*\(1, 300\)"):
        FrechetPixels().compute(torch.zeros(1, 1, 2, 2), reference)


def test_one_rank_of_a_process_group_computes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: Tensor, reference: Reference
) -> None:
    distributed = torch.distributed

    def collective(*_: object, **__: object) -> None:
        raise AssertionError("a metric must not talk to other ranks")

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    try:
        for name in ("barrier", "all_gather", "all_reduce", "broadcast"):
            monkeypatch.setattr(distributed, name, collective)
        for kind in METRIC_KINDS:
            assert kind().compute(samples, reference) > 0.0
    finally:
        monkeypatch.undo()
        distributed.destroy_process_group()


def test_classifier_knows_digits_it_has_not_seen(digits: DataSplit, classifier: Classifier) -> None:
    with torch.no_grad():
        right = classifier(digits.held_out_x).argmax(dim=1) == digits.held_out_label
    assert float(right.float().mean()) > 0.95


def test_classifier_comes_from_its_seed_alone() -> None:
    data = EightGaussians(size=256, held_out=64, labelled=True).load()
    state = torch.get_rng_state()
    first, second, other = (train_classifier(data, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        if name.endswith("weight"):
            assert not torch.equal(value, other[name]), name


def test_classifier_can_be_stored(digits: DataSplit, classifier: Classifier) -> None:
    again = build_classifier(digits, seed=9)
    assert not torch.equal(
        features(again)(digits.held_out_x), features(classifier)(digits.held_out_x)
    )
    again.load_state_dict(classifier.state_dict(), strict=True)
    assert torch.equal(features(again)(digits.held_out_x), features(classifier)(digits.held_out_x))


def test_features_come_in_pieces_and_without_gradient(
    digits: DataSplit, classifier: Classifier
) -> None:
    x = digits.held_out_x[:50].clone().requires_grad_()
    whole = features(classifier)(x)
    assert whole.shape == (50, 64)
    assert not whole.requires_grad
    torch.testing.assert_close(features(classifier, batch=7)(x), whole)


def test_features_rank_damaged_digits(digits: DataSplit, classifier: Classifier) -> None:
    reference = Reference(digits.held_out_x, digits.held_out_x, features(classifier))
    x = digits.train_x[:360]
    noise = normal(*x.shape, seed=0).float()
    values = [FrechetFeatures().compute(x + size * noise, reference) for size in (0.0, 0.5, 1.0)]
    assert values == sorted(values)
    assert values[1] > 1.5 * values[0]


def test_classifier_needs_classes() -> None:
    with pytest.raises(ValueError, match="needs labelled data"):
        train_classifier(EightGaussians(size=16, held_out=8).load(), seed=0)
