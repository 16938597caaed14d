"""Every network trains: on the digits, flow matching loses residual within a few dozen steps."""

from pathlib import Path

import pytest

from meanflow_tune.config import Budget, Ema, Optimizer, TrialConfig
from meanflow_tune.data import Digits
from meanflow_tune.losses import FlowMatching, LossMix
from meanflow_tune.models import MLP, MODEL_KINDS, DiT, NetworkSettings, UNet
from meanflow_tune.time_samplers import UniformPairs
from meanflow_tune.training.loop import train
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.tiny_run import Memory

# Of networks whose defaults are large.
SMALL: dict[type[NetworkSettings], NetworkSettings] = {
    MLP: MLP(width=64, blocks=2),
    DiT: DiT(width=32, depth=2, patch=2),
    UNet: UNet(width=8, groups=4, condition_width=32),
}


@pytest.mark.parametrize("kind", MODEL_KINDS, ids=lambda kind: kind.__name__)
def test_residual_falls_on_the_digits(kind: type[NetworkSettings], tmp_path: Path) -> None:
    config = TrialConfig(
        data=Digits(),
        teacher=None,
        velocity_source="from_scratch",
        model=SMALL.get(kind) or kind(),
        losses=LossMix(flow_matching=FlowMatching(share=1.0)),
        time_sampler=UniformPairs(diagonal_share=1.0),
        optimizer=Optimizer(learning_rate=5e-3),
        ema=Ema(half_life_images=500),
        budget=Budget(images=60 * 64, global_batch=64, rungs=(0.2, 1.0)),
        evaluation=None,
    )
    run, reporter = Run.start(config, World(), config.data.load(), None), Memory()
    assert train(run, tmp_path, reporter, None).status == "completed"
    # Of the first 12 steps, then of the 48 after them.
    first, later = (report.metrics["loss/residual"] for report in reporter.reports)
    assert later < 0.8 * first, (first, later)
