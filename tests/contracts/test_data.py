"""Every data set: one form, reproducible content, a fingerprint that tells contents apart."""

import sys

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from meanflow_tune.core.types import DataSplit
from meanflow_tune.data import (
    DATA_KINDS,
    Data,
    DataSettings,
    DataUnavailable,
    Digits,
    EightGaussians,
)
from meanflow_tune.data.base import make_split
from tests.support.other_values import others

every_kind = pytest.mark.parametrize("kind", DATA_KINDS, ids=lambda kind: kind.__name__)


@every_kind
def test_split_has_the_common_form(kind: type[DataSettings]) -> None:
    """By default and with every other setting, labels or none among them."""
    for settings in (kind(), *(other for _, other in others(kind()))):
        split = settings.load()
        assert split.train_x.shape[1:] == split.held_out_x.shape[1:] == split.shape
        for x, label in (
            (split.train_x, split.train_label),
            (split.held_out_x, split.held_out_label),
        ):
            assert x.dtype == torch.float32
            assert x.is_contiguous()
            assert torch.isfinite(x).all()
            assert (label is None) == (split.classes is None)
            if label is not None and split.classes is not None:
                assert label.dtype == torch.int64
                assert label.shape == x.shape[:1]
                assert torch.equal(label.unique(), torch.arange(split.classes))


@every_kind
def test_same_settings_give_the_same_bytes(kind: type[DataSettings]) -> None:
    state = torch.get_rng_state()
    first, second = kind().load(), kind().load()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.train_x, second.train_x)
    assert torch.equal(first.held_out_x, second.held_out_x)
    assert first.fingerprint == second.fingerprint


@every_kind
def test_every_setting_changes_the_content(kind: type[DataSettings]) -> None:
    fingerprints = [settings.load().fingerprint for _, settings in others(kind())]
    assert len({kind().load().fingerprint, *fingerprints}) == 1 + len(fingerprints)


@every_kind
def test_settings_are_data(kind: type[DataSettings]) -> None:
    for settings in (kind(), *(other for _, other in others(kind()))):
        assert TypeAdapter(Data).validate_python(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValidationError, match="sead"):
        kind.model_validate({"sead": 2})


def test_fingerprint_sees_values_labels_and_shapes() -> None:
    x, label = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)

    def split(
        x: torch.Tensor = x, label: torch.Tensor | None = label, held_out: int = 2
    ) -> DataSplit:
        return make_split(x, label, x[:held_out], None, 1)

    changed = x.clone()
    changed[3, 1] = 1e-7
    variants = (split(), split(x=changed), split(label=label + 1), split(label=None))
    reshaped = (split(held_out=1), split(x=x.reshape(2, 4)), split(x=x.double()))
    prints = {variant.fingerprint for variant in (*variants, *reshaped)}
    assert len(prints) == 7
    assert all(len(value) == 64 for value in prints)


def test_digits_are_the_whole_set_once() -> None:
    from sklearn.datasets import load_digits

    split = Digits(held_out=360).load()
    assert split.shape == (1, 8, 8)
    assert len(split.held_out_x) == 360
    assert split.train_label is not None
    assert split.held_out_label is not None
    pixels, labels = load_digits(return_X_y=True)
    found = torch.cat((split.train_x, split.held_out_x)).flatten(1).double() * 8 + 8
    found_label = torch.cat((split.train_label, split.held_out_label))
    mine = sorted(map(tuple, torch.cat((found, found_label[:, None]), dim=1).tolist()))
    theirs = sorted((*row, label) for row, label in zip(pixels.tolist(), labels, strict=True))
    assert mine == theirs
    assert float(found.min()) == 0.0
    assert float(found.max()) == 16.0


def test_digits_hold_out_each_class_by_its_share() -> None:
    split = Digits(held_out=360).load()
    assert split.train_label is not None
    assert split.held_out_label is not None
    held_out = split.held_out_label.bincount().double()
    whole = held_out + split.train_label.bincount()
    assert float((held_out - whole * 360 / 1797).abs().max()) <= 1.0


def test_eight_gaussians_have_their_moments() -> None:
    split = EightGaussians(size=40_000, std=0.1, labelled=True).load()
    assert split.train_label is not None
    centres = torch.stack([split.train_x[split.train_label == k].mean(dim=0) for k in range(8)])
    torch.testing.assert_close(centres.norm(dim=1), torch.full((8,), 2**0.5), rtol=0, atol=0.01)
    neighbours = (centres - centres.roll(1, dims=0)).norm(dim=1)
    torch.testing.assert_close(neighbours, torch.full((8,), 1.0824), rtol=0, atol=0.015)
    spread = (split.train_x - centres[split.train_label]).std()
    assert float(spread) == pytest.approx(0.1, abs=0.002)
    assert split.train_x.var(dim=0).tolist() == pytest.approx([1.01, 1.01], abs=0.03)


def test_eight_gaussians_are_labelled_by_their_centre() -> None:
    split = EightGaussians(size=500, held_out=100, labelled=True).load()
    assert split.classes == 8
    assert split.train_label is not None
    assert split.held_out_label is not None


def test_eight_gaussians_without_labels_are_the_same_points() -> None:
    with_labels = EightGaussians(size=50, held_out=20, labelled=True).load()
    without = EightGaussians(size=50, held_out=20).load()
    assert torch.equal(with_labels.train_x, without.train_x)
    assert without.train_label is None
    assert without.held_out_label is None
    assert without.classes is None


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataUnavailable, match=r"'digits'.*pip install scikit-learn"):
        Digits().load()


def test_a_missing_file_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*, return_X_y: bool) -> None:
        raise FileNotFoundError("digits.csv.gz")

    monkeypatch.setattr("sklearn.datasets.load_digits", broken)
    with pytest.raises(DataUnavailable, match=r"digits\.csv\.gz.*--force-reinstall"):
        Digits().load()


def test_refuses_impossible_sizes() -> None:
    with pytest.raises(ValidationError, match="held_out"):
        Digits(held_out=1797)
    with pytest.raises(ValidationError, match="std"):
        EightGaussians(std=0.0)
