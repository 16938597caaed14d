"""A training step never stops for its device, whatever is trained; a divergence is found some steps later.

There need be no GPU: a device in the processor's memory tells each wait. Where there is one, torch does.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from meanflow_tune.config import Annealed, Guidance, TeacherOde, TrialConfig
from meanflow_tune.core.jets import velocity_jet
from meanflow_tune.data import Digits, EightGaussians
from meanflow_tune.ds_schedules import DS_SCHEDULE_KINDS, Constant
from meanflow_tune.losses import Backward, FiniteDifference, Forward, LossMix, SecondOrder
from meanflow_tune.losses.mix import LOSSES
from meanflow_tune.models import MLP, MODEL_KINDS, DiT, UNet
from meanflow_tune.time_samplers import SINGLE_TIME_KINDS, TIME_SAMPLER_KINDS, Product, UniformPairs
from meanflow_tune.training.checkpoints import newest_checkpoint
from meanflow_tune.training.divergence import LAG, Diverged
from meanflow_tune.training.loop import train
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from meanflow_tune.weightings import WEIGHTING_KINDS
from tests.support.devices.simulated import (
    DEVICE,
    Simulated,
    Synchronised,
    numbers,
    simulated_device,
    strictly,
)
from tests.support.tiny_run import CONFIGS, Memory, tiny_config

HALF = Constant(value=0.5)
LABELLED: dict[str, Any] = {"data": EightGaussians(size=512, held_out=128, labelled=True)}
SCRATCH: dict[str, Any] = {"velocity_source": "from_scratch", "teacher": None, "evaluation": None}
PART = LossMix(
    backward=Backward(share=0.5),
    forward=Forward(share=0.3),
    second_order=SecondOrder(share=0.2, fraction=0.4),
)
SMALL = {MLP: MLP(width=16, blocks=1), DiT: DiT(width=16, depth=1), UNet: UNet(width=8, groups=4)}


def of_loss(name: str, **settings: Any) -> dict[str, Any]:
    mix = LossMix(**{name: LOSSES[name](share=1.0, **settings)})
    return {"losses": mix, "ds_schedule": HALF if mix.differences else None}


def guided(**settings: Any) -> dict[str, Any]:
    teacher = tiny_config().teacher
    assert teacher is not None
    dropped = teacher.model_copy(update={"label_dropout": 0.1})
    return LABELLED | {"teacher": dropped, "guidance": Guidance(scale=2.0, **settings)}


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    **{f"loss {name}": of_loss(name) for name in LOSSES},
    **{f"pairs {kind.__name__}": {"time_sampler": kind()} for kind in TIME_SAMPLER_KINDS},
    **{
        f"time {kind.__name__}": {"time_sampler": Product(start=kind(), factor=kind())}
        for kind in SINGLE_TIME_KINDS
    },
    **{
        f"schedule {kind.__name__}": of_loss("tri_consistency") | {"ds_schedule": kind()}
        for kind in DS_SCHEDULE_KINDS
    },
    **{f"weighting {kind.__name__}": {"weighting": kind()} for kind in WEIGHTING_KINDS},
    **{
        f"network {kind.__name__}": SCRATCH | {"data": Digits(), "model": SMALL.get(kind) or kind()}
        for kind in MODEL_KINDS
    },
    "rows of a fraction": {"losses": PART},
    "a sum": {"losses": PART.model_copy(update={"form": "sum"})},
    "a clamp": {
        "losses": LossMix.mixture(backward=0.5, forward=0.5).model_copy(update={"clamp": 1.0})
    },
    "live targets": of_loss("backward", stop_gradient=False),
    "split at the start": of_loss("tri_consistency", split="start"),
    "student's second part": of_loss("tri_consistency", second_part="student"),
    **{
        f"differences of order {order}": {
            "losses": LossMix(
                second_order=SecondOrder(share=1.0), derivative=FiniteDifference(order=order)
            ),
            "ds_schedule": HALF,
        }
        for order in (1, 2)
    },
    "teacher's ODE": {"x_source": TeacherOde()},
    "annealed": {"x_source": Annealed(until=1.0)},
    "annealed parts": of_loss("tri_consistency") | {"x_source": Annealed(until=1.0)},
    "guided teacher": guided(),
    "guided between": guided(t_start=0.3, t_end=0.6) | {"x_source": Annealed(until=1.0)},
    "guided parts": guided(t_start=0.3, t_end=0.6) | of_loss("tri_consistency"),
    **{
        f"dropout, {targets} in targets": {
            "model": MLP(width=16, blocks=1, dropout=0.3),
            "dropout_in_targets": targets,
        }
        for targets in ("same", "none")
    },
    "guided from scratch": SCRATCH
    | LABELLED
    | {"label_dropout": 0.3, "guidance": Guidance(scale=2.0, t_end=0.6)},
    "no diagonal": {"time_sampler": UniformPairs(diagonal_share=0.0)},
    "only the diagonal": {"time_sampler": UniformPairs(diagonal_share=1.0)},
}


# That together have every way through a step; the others are slow for their number.
QUICK = ("default", "a clamp", "differences of order 2", "annealed parts", "guided between")
QUICK = (*QUICK, "rows of a fraction", "guided from scratch")
STEPS = 2


def swirl(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    return torch.sin(x + t.reshape(-1, *[1] * (x.dim() - 1)))


def started(config: TrialConfig, folder: Path, device: str) -> Run:
    world = World(device=device)
    resources = Resources(folder, world)
    # A trained one only where its guidance has a part in it.
    teacher = swirl if config.guidance is None else resources.teacher(config, Memory())
    return Run.start(config, world, resources.data(config), teacher)


def weights(run: Run) -> list[Tensor]:
    return [numbers(x).cpu() for x in run.ema.weights.values()]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    with simulated_device(monkeypatch) as simulated:
        yield simulated


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("teachers")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES],
)
def test_no_step_stops_for_its_device_and_all_are_those_of_the_processor(
    name: str, teachers: Path, device: Simulated
) -> None:
    config = tiny_config(**CASES[name])
    run = started(config, teachers, DEVICE)
    run.advance(run.objective)  # the first one checks the network's derivatives once
    with strictly(device):
        losses = [run.advance(run.objective).loss for _ in range(STEPS)]
    run.settle()
    plain = started(config, teachers, "cpu")
    plain.advance(plain.objective)
    expected = [plain.advance(plain.objective).loss for _ in range(STEPS)]
    if "network" in name:  # attention is another kernel on the processor, and Adam carries that on
        assert list(map(float, losses)) == pytest.approx(list(map(float, expected)), rel=0.05)
    else:
        torch.testing.assert_close(weights(run), weights(plain), rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        Tensor.cpu,
        Tensor.nonzero,
        torch.masked_select,
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x.clone()),
        lambda x: x + torch.ones(1).to(DEVICE),
        lambda x: x + torch.ones(1).to(DEVICE, non_blocking=True),
        lambda x: x + torch.ones(1).pin_memory().to(DEVICE),
        lambda x: x[torch.zeros(1, dtype=torch.int64)],
        lambda x: torch.tensor([1.0], device=DEVICE) + 1.0,
        lambda x: torch.empty(1).copy_(x, non_blocking=True),
    ],
)
def test_the_simulated_device_tells_what_stops_a_step(
    read: Callable[..., Any], device: Simulated
) -> None:
    x = torch.ones(1, device=DEVICE)
    given = (x, x > 0) if read is torch.masked_select else (x,)
    read(*given)
    with strictly(device), pytest.raises(Synchronised):
        read(*given)


def test_numbers_among_the_operands_of_a_derivative_pass_do_not_stop_it(device: Simulated) -> None:
    def network(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = torch.where(x > 0, x, 0.1) + x.masked_fill(x > 1, 2.0)
        return torch.maximum(h, torch.full_like(h, 0.5)) * (1.0 - s)[:, None] / (2.0 + t)[:, None]

    x, t = torch.ones(4, 2, device=DEVICE), torch.ones(4, device=DEVICE)
    velocity_jet(network, x, t, t, x)
    with strictly(device):
        velocity_jet(network, x, t, t, x)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "default" else pytest.mark.slow) for n in CONFIGS],
)
def test_a_run_on_a_device_reports_and_saves_what_one_on_the_processor_does(
    name: str, teachers: Path, tmp_path: Path, device: Simulated
) -> None:
    changes = SCRATCH if name == "wide" else {"evaluation": None}
    config = CONFIGS[name](**changes)
    found = []
    for kind in ("cpu", DEVICE):
        run, reporter = started(config, teachers, kind), Memory()
        # Interrupted in between: its steps that were not read yet are, before it saves.
        assert train(run, tmp_path / kind, Memory(interrupt_after=6), None).status == "running"
        run = started(config, teachers, kind)
        assert train(run, tmp_path / kind, reporter, None).status == "completed"
        found.append((run, reporter))
    (plain, told), (run, also) = found
    for mine, theirs in zip(weights(run), weights(plain), strict=True):
        assert torch.equal(mine, theirs)
    assert [r.metrics for r in also.reports] == [r.metrics for r in told.reports]


@pytest.mark.parametrize("at", [1, 3, 4, 9])
def test_a_divergence_that_is_found_later_has_the_same_outcome(
    at: int, teachers: Path, tmp_path: Path, device: Simulated
) -> None:
    """Rungs are after 4 and 10 steps: the bad one is before or after a rung, or the last of one."""
    outcomes = []
    for kind in ("cpu", DEVICE):
        run = started(tiny_config(evaluation=None), teachers, kind)
        breaks(run, at)
        reporter = Memory()
        outcomes.append(train(run, tmp_path / kind, reporter, None))
        good = [4] if at >= 4 else []
        assert [report.images // 32 for report in reporter.reports] == good
        saved = newest_checkpoint(tmp_path / kind / "checkpoints", print)
        assert (saved is None) == (not good)
        assert all(tick["images"] <= 32 * at for tick in reporter.ticks)
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].status == "diverged"
    assert f"step {at} ({32 * at} images)" in outcomes[0].reason


def breaks(run: Run, at: int) -> None:
    """Its weights overflow before step `at`."""
    batch = run.batch

    def overflowing() -> Any:
        if run.step == at:
            with torch.no_grad():
                next(run.objective.student.parameters()).fill_(1e38)
        return batch()

    run.batch = overflowing  # type: ignore[method-assign]


def test_a_state_of_a_step_that_diverged_is_never_given_away(
    teachers: Path, device: Simulated
) -> None:
    for give in (Run.state_dict, Run.averaged_state, Run.settle):
        run = started(tiny_config(), teachers, DEVICE)
        breaks(run, 1)
        run.advance(run.objective)
        run.advance(run.objective)
        with pytest.raises(Diverged, match="step 1"):
            give(run)


def test_a_device_is_at_most_some_steps_behind(teachers: Path, device: Simulated) -> None:
    run = started(tiny_config(), teachers, DEVICE)
    breaks(run, 1)
    for _ in range(1 + LAG):
        run.advance(run.objective)
    with pytest.raises(Diverged, match="step 1"):
        run.advance(run.objective)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_no_step_stops_for_a_gpu(name: str, precision: str, teachers: Path) -> None:
    try:
        config = tiny_config(**CASES[name], precision=precision)
    except ValueError:
        pytest.skip("differences need float32")
    run = started(config, teachers, "cuda")
    for _ in range(2):  # the first ones check the network's derivatives, and fill caches
        run.advance(run.objective)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(LAG + 2):
            run.advance(run.objective)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run.settle()
