"""Whole first-order MeanFlow steps: the product's, and one as public code writes it, on one network.

Both draw images, noise and times by the CIFAR-10 recipe of MeanFlow (logit-normal times in pairs, a quarter
with t = s, adaptive weighting with power 0.75), make the target, go forward and backward, clip the norm of
the gradient to 1, step an optimiser, update one moving average of the weights, and look whether the loss is
finite. What differs is how each side does it.

The peer follows the public PyTorch code of MeanFlow for CIFAR-10: u and D u of all rows by one torch.func.jvp
in grad mode, torch.optim.Adam with its defaults, the loss read back in each step; compiled, its loss as one
function. The average is updated by one foreach operation on both sides, where that code updates three every
16 steps. Neither side has dropout.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from benchmarks.derivatives.methods import autocast, products
from benchmarks.derivatives.providers import reason
from benchmarks.derivatives.song_unet import SongUNet
from benchmarks.timing import interleaved, peak_mib, quartiles
from meanflow_tune.config import Budget, Ema, Optimizer, TrialConfig
from meanflow_tune.core.types import DataSplit, PathSample
from meanflow_tune.data import EightGaussians
from meanflow_tune.losses import LossMix
from meanflow_tune.models import MLP
from meanflow_tune.objective.loss_module import Objective
from meanflow_tune.time_samplers import LogitNormalPairs
from meanflow_tune.training.optim import MovingAverage, make_optimizer
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from meanflow_tune.weightings import Adaptive

Progress = Callable[[str], None]
OURS, PEER = "ours", "torch.func.jvp, as public code has it"
GOAL = 1.4
MEAN, STD, DIAGONAL, POWER, RATE, DECAY = 2.0, 2.0, 0.25, 0.75, 6e-4, 0.9999


@dataclass(frozen=True)
class Size:
    """Of the network, its images [3, edge, edge], and the batch."""

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    edge: int
    batch: int

    def build(self, device: str) -> SongUNet:
        """The same weights on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = SongUNet(3, self.channels, self.multipliers, self.blocks, self.attention)
        return net.to(device)

    @property
    def note(self) -> str:
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        count = sum(p.numel() for p in self.build("cpu").parameters()) / 1e6
        return (
            f"SongUNet, width {' and '.join(map(str, widths))}, {self.blocks} blocks per level, "
            f"{self.edge}x{self.edge}, {count:.1f} M parameters"
        )


# On a GPU that of the CIFAR-10 recipe; on a processor a narrow one.
SIZES = {
    "cuda": Size(128, (2, 2, 2), 4, (1,), 32, 128),
    "cpu": Size(32, (1, 2), 1, (1,), 32, 16),
}


@dataclass(frozen=True)
class Side:
    """One row: seconds of a step (quartiles), None where it does not run."""

    name: str
    seconds: tuple[float, float, float] | None
    images_per_second: float | None = None
    peak_mib: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Peer:
    """Both sides on one network. ratios: images per second, ours over the peer's."""

    note: str
    batch: int
    precision: str
    sides: list[Side]
    ratios: dict[str, float]


def loss_of_peer(model: Callable[..., Tensor], path: PathSample) -> Tensor:
    """The adaptive loss of backward MeanFlow, u and D u of all rows by one torch.func.jvp."""
    at = (path.x_t, path.t, path.s)
    along = (path.v_t, torch.ones_like(path.t), torch.zeros_like(path.s))
    u, d_t = jvp(lambda x, t, s: model(x, t, s, None), at, along)[:2]
    target = (path.v_t + (path.s - path.t)[:, None, None, None] * d_t).detach()
    square = (u - target).square().mean(dim=(1, 2, 3))
    loss: Tensor = (square / (square.detach() + Adaptive().epsilon) ** POWER).mean()
    return loss


class PeerStep:
    """A step of the peer; call it."""

    def __init__(self, net: nn.Module, images: Tensor, batch: int, precision: str, compiled: bool):
        self.net, self.images, self.batch = net, images, batch
        self.precision, self.device = precision, images.device.type
        self.average = deepcopy(net).requires_grad_(False)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=RATE, betas=(0.9, 0.999))
        self.loss: Callable[..., Tensor] = loss_of_peer
        if compiled:
            self.loss = torch.compile(loss_of_peer)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with autocast(self.precision, self.device):
            loss = self.loss(self.net, self.path())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        if not torch.isfinite(loss).item():
            raise ArithmeticError(f"the peer's loss is {loss.item()}")
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.net.parameters()), 1.0 - DECAY
            )

    def path(self) -> PathSample:
        """Images, noise and times of a batch."""
        count, device = self.batch, self.images.device
        x_1 = self.images[torch.randint(len(self.images), (count,), device=device)]
        x_0 = torch.randn_like(x_1)
        pair = torch.sigmoid(MEAN + STD * torch.randn(count, 2, device=device)).sort(dim=1).values
        same = torch.arange(count, device=device) < DIAGONAL * count
        t, s = pair[:, 0], torch.where(same, pair[:, 0], pair[:, 1])
        time = t[:, None, None, None]
        return PathSample(x_0, x_1, (1 - time) * x_0 + time * x_1, x_1 - x_0, t, s, None)


def run_of(net: nn.Module, images: Tensor, batch: int, precision: str, compiled: bool) -> Run:
    """The product's run that trains `net`: `advance` is its step."""
    device = str(images.device)
    config = TrialConfig(
        data=EightGaussians(),
        teacher=None,
        model=MLP(),  # not built: `net` is in its place
        velocity_source="from_scratch",
        losses=LossMix.mixture(backward=1.0),
        time_sampler=LogitNormalPairs(mean=MEAN, std=STD, diagonal_share=DIAGONAL),
        weighting=Adaptive(power=POWER),
        optimizer=Optimizer(learning_rate=RATE, warmup=0.0, decay="constant", beta2=0.999),
        ema=Ema(),
        budget=Budget(images=1_000_000 * batch, global_batch=batch),
        evaluation=None,
        precision="bfloat16" if precision == "bfloat16" else "float32",
        compile=compiled,
    )
    data = DataSplit(images, None, images[:1], None, None, "made up")
    objective = Objective(net, None, config)
    average = MovingAverage(net, deepcopy(net), config.ema)
    optimizer = make_optimizer(objective.parameters(), config.optimizer)
    return Run(config, World(device=device), data, objective, average, optimizer, 0, {}, [])


def peer(
    *,
    device: str,
    precision: str,
    batch: int | None,
    repetitions: int,
    compiled: bool,
    progress: Progress,
    size: Size | None = None,
) -> Peer:
    """Both sides by turns in one run, uncompiled and compiled, each with a network of its own."""
    size = size or SIZES["cpu" if device == "cpu" else "cuda"]
    count = batch or size.batch
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(512, 3, size.edge, size.edge, generator=generator).to(device)
    notes: dict[str, str] = {}
    calls: dict[str, Callable[[], Any]] = {}
    with products(precision):
        for fast in (False, True) if compiled else (False,):
            for name in (PEER, OURS):
                label = f"{name}{', compiled' if fast else ''}"
                progress(f"first steps of {label}")
                notes[label] = ""
                try:
                    call = _call(name, size.build(device), images, count, precision, fast)
                    for _ in range(2):
                        call()
                except Exception as error:  # the compiler has no class of errors of its own
                    notes[label] = f"does not run: {reason(error)}"
                    continue
                calls[label] = call
        seconds = interleaved(calls, repetitions, device, progress)
        sides = []
        for label, note in notes.items():
            if label not in calls:
                sides.append(Side(label, None, note=note))
                continue
            quarters = quartiles(seconds[label])
            memory = peak_mib(calls[label], device)
            sides.append(Side(label, quarters, count / quarters[1], memory))
    return Peer(size.note, count, precision, sides, ratios_of(sides))


def _call(
    name: str, net: nn.Module, images: Tensor, batch: int, precision: str, compiled: bool
) -> Callable[[], Any]:
    if name == PEER:
        return PeerStep(net, images, batch, precision, compiled)
    run = run_of(net, images, batch, precision, compiled)
    return lambda: run.advance(run.objective)


def ratios_of(sides: list[Side]) -> dict[str, float]:
    """Ours over the peer's images per second, for the pairs that are there."""
    rate = {side.name: side.images_per_second for side in sides}
    found = {}
    for name, suffix in (("uncompiled", ""), ("compiled", ", compiled")):
        ours, theirs = rate.get(OURS + suffix), rate.get(PEER + suffix)
        if ours is not None and theirs is not None:
            found[f"images per second, ours / torch.func.jvp, {name}"] = ours / theirs
    return found
