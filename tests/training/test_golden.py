"""Golden losses: what the default space trains.

A change without numerical effect must leave them as they are. Other draws change them: then show that
the former draws give the former numbers.
"""

from typing import Any

import pytest
from optuna.trial import FixedTrial
from torch import Tensor

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.random import make_generator
from meanflow_tune.search.space.load import load_space
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World

SPACE = "second_order"
FOUR_LOSSES: dict[str, Any] = {
    "loss/second_order/sign": 1,
    "loss/second_order/magnitude": 0.08497025577325212,
    "loss/second_order/ramp": 0.4186372947583625,
    "loss/tri_consistency/active": True,
    "loss/tri_consistency/fraction": 0.052803614842065444,
    "loss/tri_consistency/split": "end",
    "loss/backward/fraction": 0.25298236238344396,
    "x_source/kind": "teacher_ode",
    "x_source/steps": 3,
    "time/diagonal_share": 0.49336027087012513,
    "time/family": "logit_normal",
    "time/logit_normal/mean": -0.43375991310275064,
    "time/logit_normal/std": 1.947983561257083,
    "ds/family": "exponential",
    "ds/exponential/start": 0.39878858765166575,
    "ds/exponential/end": 0.0021674264425031783,
    "weighting/power": 0.7333801675105699,
    "weighting/epsilon": 1e-3,
    "optimizer/learning_rate": 0.002561202164339041,
}
# Losses of the steps 1, 10 and 20.
GOLDEN = {
    "meanflow_cifar10_second_order": (
        0.057135894894599915,
        0.08691977709531784,
        0.08863157778978348,
    ),
    "backward_forward": (0.05621010810136795, 0.08509466052055359, 0.08851481229066849),
    "teacher": (1.742780089378357, 1.7238601446151733, 1.5847452878952026),
    "four losses": (0.023834142833948135, 0.027601659297943115, 0.02139446884393692),
}


def config_of(name: str) -> TrialConfig:
    space = load_space(SPACE)
    if name == "teacher":
        trained: TrialConfig = space.suggest(
            FixedTrial(space.baselines["backward_forward"])
        ).teacher_run()
        return trained
    params = FOUR_LOSSES if name == "four losses" else space.baselines[name]
    config: TrialConfig = space.suggest(FixedTrial(params))
    return config


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_of_the_default_space_are_what_they_were(name: str) -> None:
    config = config_of(name)
    data = config.data.load()
    net = config.model.build(data.shape, data.classes, make_generator(7, "golden"))

    def velocity(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        out: Tensor = net(x, t, t, label)
        return out.detach()

    initial = net.state_dict() if config.student_init == "teacher" else None
    run = Run.start(config, World(), data, velocity, initial)
    losses = [run.advance(run.objective).loss.item() for _ in range(20)]
    # Other processors round otherwise, and 20 steps of Adam carry that on.
    assert (losses[0], losses[9], losses[19]) == pytest.approx(GOLDEN[name], rel=1e-3)
