"""The settings `channels_last` and `precision: tf32`: what they change, and that a resume is exact."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from meanflow_tune.config import TrialConfig
from meanflow_tune.config.effects import without_effect
from meanflow_tune.core.products import float32_products
from meanflow_tune.core.random import make_generator
from meanflow_tune.data import Digits
from meanflow_tune.ds_schedules import Constant
from meanflow_tune.losses import FiniteDifference, LossMix, SecondOrder, TriConsistency
from meanflow_tune.models import MODEL_KINDS, NetworkSettings, UNet
from meanflow_tune.training.loop import train
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.tiny_run import Memory, assert_same, tiny_config

UNET = UNet(width=8, groups=4, condition_width=16)


def images(**changes: Any) -> TrialConfig:
    settings: dict[str, Any] = {"data": Digits(), "model": UNET, "evaluation": None}
    return tiny_config(**(settings | changes))


def started(config: TrialConfig, folder: Path) -> Run:
    resources = Resources(folder, World())

    def velocity(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.sin(x + t[:, None, None, None])

    return Run.start(config, World(), resources.data(config), velocity)


def last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def test_convolutions_compute_with_channels_last_and_give_the_same(tmp_path: Path) -> None:
    plain, laid = (started(images(channels_last=on), tmp_path) for on in (False, True))
    net = laid.objective.student
    assert all(last(p) for p in net.parameters() if p.dim() == 4)
    assert all(last(x) for x in laid.ema.weights.values() if x.dim() == 4)
    seen: list[bool] = []
    net.down[0].register_forward_hook(lambda module, given, out: seen.append(last(out)))
    first = [run.advance(run.objective).loss.item() for run in (plain, laid)]
    assert seen[0]
    assert first[1] == pytest.approx(first[0], rel=1e-4)


def test_a_resume_with_channels_last_is_exact(tmp_path: Path) -> None:
    config = images(channels_last=True)
    whole, cut = started(config, tmp_path), started(config, tmp_path)
    assert train(whole, tmp_path / "whole", Memory(), None).status == "completed"
    assert train(cut, tmp_path / "cut", Memory(interrupt_after=6), None).status == "running"
    again = started(config, tmp_path)
    assert train(again, tmp_path / "cut", Memory(), None).status == "completed"
    assert_same(whole, again)
    moments = again.optimizer.state_dict()["state"].values()
    assert any(last(state["exp_avg"]) for state in moments)


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_channels_last_is_refused_where_it_does_nothing(kind: type[NetworkSettings]) -> None:
    model = UNET if kind is UNet else kind()
    net = model.build((1, 8, 8), None, make_generator(0))
    assert model.convolutional == any(p.dim() == 4 for p in net.parameters())
    fault = without_effect(images(model=model, channels_last=True))
    assert (fault is None) == model.convolutional
    assert model.convolutional or "channels_last has no effect" in str(fault)


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("tf32", True)])
def test_both_passes_of_a_step_have_the_precision_and_nothing_else_has(
    precision: str, tf32: bool, tmp_path: Path
) -> None:
    run, before = started(images(precision=precision), tmp_path), flags()
    seen: list[tuple[bool, bool]] = []
    weight = next(run.objective.student.parameters())
    run.objective.student.register_forward_hook(lambda *given: seen.append(flags()))
    weight.register_hook(lambda gradient: seen.append(flags()))
    run.advance(run.objective)
    assert len(seen) >= 2
    assert set(seen) == {(tf32, tf32)}
    assert flags() == before
    with pytest.raises(KeyError), float32_products(tf32):
        raise KeyError
    assert flags() == before


def test_on_a_processor_tf32_is_float32(tmp_path: Path) -> None:
    runs = [started(images(precision=p), tmp_path) for p in ("float32", "tf32")]
    losses = [run.advance(run.objective).loss.item() for run in runs]
    assert losses[0] == losses[1]


def test_what_rounding_would_spoil_is_refused() -> None:
    mix = LossMix(second_order=SecondOrder(share=1.0), derivative=FiniteDifference())
    with pytest.raises(ValueError, match="needs precision 'float32': in tf32"):
        images(losses=mix, ds_schedule=Constant(value=0.5), precision="tf32")
    parts = LossMix(tri_consistency=TriConsistency(share=1.0))
    images(losses=parts, ds_schedule=Constant(value=0.02), precision="tf32")
    with pytest.raises(ValueError, match=r"falls to 0\.01"):
        images(losses=parts, ds_schedule=Constant(value=0.01), precision="tf32")
