"""Copies of the student are copies: what is evaluated, exported, resumed and taken as v_s is one network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, nn

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.generation import generate
from meanflow_tune.losses import LossMix
from meanflow_tune.student_files import export_student
from meanflow_tune.tracking.student_model import load_student
from meanflow_tune.training.loop import train
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.drawn_network import DrawnNetwork
from tests.support.ranks import launch
from tests.support.tiny_run import Memory, assert_same, tiny_config

WORLD = World()


@pytest.fixture(params=[True, False], ids=["persistent", "hidden"])
def drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every network is a DrawnNetwork; whether its buffers are in the `state_dict`."""
    persistent: bool = request.param

    def network(config: TrialConfig, shape: Any, classes: Any, generator: Generator) -> nn.Module:
        return DrawnNetwork(generator, persistent)

    monkeypatch.setattr(TrialConfig, "network", network)
    return persistent


def start(config: TrialConfig, resources: Resources) -> Run:
    teacher = resources.teacher(config, Memory())
    return Run.start(config, WORLD, resources.data(config), teacher, resources.initial(config))


def from_scratch() -> TrialConfig:
    return tiny_config(
        velocity_source="from_scratch",
        teacher=None,
        evaluation=None,
        losses=LossMix.mixture(backward=0.6, forward=0.4),
    )


def exported(run: Run, folder: Path) -> nn.Module:
    data = run.data
    state = run.averaged_state()
    return load_student(
        export_student(folder, run.config.to_dict(), state, data.shape, data.classes)
    ).net


def samples(net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return generate(net, torch.linspace(-2.0, 2.0, 20).reshape(10, 2), None, 2)  # type: ignore[arg-type]


def test_the_evaluated_model_is_the_exported_one(drawn: bool, tmp_path: Path) -> None:
    resources = Resources(tmp_path / "teachers", WORLD)
    config = tiny_config()
    run = start(config, resources)
    evaluator = resources.evaluator(config, Memory())
    assert train(run, tmp_path / "run", Memory(), evaluator).status == "completed"
    student = run.objective.student
    assert float(student.calls) > 0
    average = run.averaged()
    for name, buffer in student.named_buffers():
        assert torch.equal(average.get_buffer(name), buffer), name
    assert torch.equal(samples(average), samples(exported(run, tmp_path / "model")))
    again = start(config, resources)
    assert train(again, tmp_path / "run", Memory(), evaluator).status == "completed"
    assert torch.equal(samples(average), samples(again.averaged()))
    assert torch.equal(samples(average), samples(exported(again, tmp_path / "model_again")))


def test_from_scratch_v_s_is_the_average_of_the_student_itself(drawn: bool, tmp_path: Path) -> None:
    resources = Resources(tmp_path, WORLD)
    run = start(from_scratch(), resources)
    x, t = run.data.train_x[:8], torch.linspace(0.0, 1.0, 8)
    for step in range(4):
        if step == 0:
            expected = run.objective.student.eval()(x, t, t)
            run.objective.student.train()
        else:
            expected = run.averaged()(x, t, t)
            assert not torch.equal(expected, run.objective.student.eval()(x, t, t))
            run.objective.student.train()
        assert torch.equal(run.objective.input_maker.velocity(x, t, None), expected)
        run.advance(run.objective)
    for name, buffer in run.objective.student.named_buffers():
        assert torch.equal(run.ema.net.get_buffer(name), buffer), name


def test_a_resume_is_the_same_run(drawn: bool, tmp_path: Path) -> None:
    resources = Resources(tmp_path / "teachers", WORLD)
    whole, first, second = (start(from_scratch(), resources) for _ in range(3))
    train(whole, tmp_path / "whole", Memory(), None)
    train(first, tmp_path / "parts", Memory(interrupt_after=5), None)
    assert train(second, tmp_path / "parts", Memory(), None).status == "completed"
    assert_same(whole, second)
    assert torch.equal(samples(whole.averaged()), samples(second.averaged()))
    for name, buffer in whole.objective.student.named_buffers():
        assert torch.equal(second.objective.student.get_buffer(name), buffer), name


def test_a_cached_teacher_is_the_trained_one(
    drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[nn.Module] = []
    real = Run.averaged_state
    monkeypatch.setattr(
        Run, "averaged_state", lambda self: trained.append(self.averaged()) or real(self)
    )
    resources = Resources(tmp_path, WORLD)
    config = tiny_config(student_init="teacher", seed=5)
    velocity = resources.teacher(config, Memory())
    assert velocity is not None
    x, t = torch.randn(8, 2), torch.linspace(0.0, 1.0, 8)
    assert len(trained) == 1
    expected = trained[0](x, t, t)
    assert torch.equal(velocity(x, t), expected)
    run = start(config, resources)
    assert torch.equal(run.objective.student.eval()(x, t, t), expected), "its first weights"
    assert torch.equal(run.averaged()(x, t, t), expected)
    assert torch.equal(exported(run, tmp_path / "model")(x, t, t), expected)


class Unstored(DrawnNetwork):
    """Draws numbers that are neither parameters nor buffers."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator, True)
        self.phases = [torch.rand(1, generator=generator) for _ in range(2)]


def test_numbers_that_cannot_be_stored_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrialConfig, "network", lambda self, shape, classes, g: Unstored(g))
    with pytest.raises(ValueError, match=r"attribute 'phases' differs.*register_buffer"):
        start(from_scratch(), Resources(tmp_path, WORLD))


RANKS = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel
from meanflow_tune.config import TrialConfig
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World, end_rank
from tests.support.drawn_network import DrawnNetwork
from tests.support.tiny_run import wide_config

torch.set_num_threads(1)
dist.init_process_group("gloo")
world = World(dist.get_rank(), dist.get_world_size())
TrialConfig.network = lambda self, shape, classes, generator: DrawnNetwork(generator, False)
config = wide_config(teacher=None, evaluation=None)
run = Run.start(config, world, Resources(Path(sys.argv[1]), world).data(config), None)
module = DistributedDataParallel(run.objective)
for _ in range(3):
    run.advance(module)
local = run.objective.student.mean.clone()
average = {name: value.clone() for name, value in run.averaged().named_buffers()}
torch.save([local, average], Path(sys.argv[1]) / f"{world.rank}.pt")
end_rank()
"""


def test_every_rank_evaluates_rank_0s_buffers(tmp_path: Path) -> None:
    """Each rank's own running mean is of its own rows; DDP takes rank 0's in the next step."""
    launch(tmp_path, 2, RANKS)
    (first, average), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(average["mean"], first)
    for name, value in average.items():
        assert torch.equal(other[name], value), name
