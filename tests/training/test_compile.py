"""The setting `compile`: one compilation a network and slot, and the training that it does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from meanflow_tune.config import Optimizer, TrialConfig
from meanflow_tune.core.jets import engine
from meanflow_tune.losses import LossMix
from meanflow_tune.records import Job, SilentReporter
from meanflow_tune.time_samplers import LogitNormalPairs, UniformPairs
from meanflow_tune.training import job
from meanflow_tune.training.job import run_job
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.ranks import launch
from tests.support.tiny_run import CONFIGS, Memory, tiny_config


@pytest.fixture
def without_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile as far as Dynamo traces; machine code is tested in tests/core/test_engine.py."""
    real = torch.compile
    monkeypatch.setattr(
        engine.torch, "compile", lambda f, **options: real(f, backend="eager", **options)
    )
    monkeypatch.setattr(job, "_resources", {})
    torch._dynamo.reset()
    engine.compiled.cache_clear()
    yield
    torch._dynamo.reset()
    engine.compiled.cache_clear()


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("without_code")
def test_trials_of_a_slot_share_what_was_compiled(tmp_path: Path) -> None:
    """Other weights, sampler, diagonal share, learning rate and seed: the network is the same."""
    trials = [
        tiny_config(compile=True),
        tiny_config(
            compile=True,
            losses=LossMix.mixture(backward=0.8, forward=0.4, second_order=-0.2),
            time_sampler=UniformPairs(diagonal_share=0.6),
            optimizer=Optimizer(learning_rate=3e-3),
            seed=5,
        ),
        tiny_config(compile=True, time_sampler=LogitNormalPairs(diagonal_share=0.0)),
    ]
    counted = []
    for number, config in enumerate(trials):
        folder = tmp_path / "study" / "trials" / str(number)
        job = Job("study", number, config.to_dict(), str(folder), 0, 1)
        outcome = run_job(job, 0, 1, "cpu", SilentReporter(), cache=str(tmp_path / "teachers"))
        assert outcome.status == "completed"
        counted.append(graphs())
    # The student with gradient and its jet; the teacher.
    assert counted[0] >= 3
    assert counted == [counted[0]] * 3


@pytest.mark.usefixtures("without_code")
@pytest.mark.parametrize("name", CONFIGS)
def test_compiled_training_is_eager_training(name: str, tmp_path: Path) -> None:
    """With gradients through the jet, a fraction of the rows and the self-teacher too."""
    weights = []
    for setting in (False, True):
        config: TrialConfig = CONFIGS[name](compile=setting)
        resources = Resources(tmp_path, World())
        teacher = resources.teacher(config, Memory())
        run = Run.start(config, World(), resources.data(config), teacher)
        for _ in range(4):
            run.advance(run.objective)
        weights.append(
            torch.cat([p.detach().flatten() for p in run.objective.student.parameters()])
        )
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


COMPILED_RANKS = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel
from meanflow_tune.core.jets import engine
from meanflow_tune.training.run import Run
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.world import World, end_rank
from tests.support.tiny_run import Memory, tiny_config

real = torch.compile
torch.compile = lambda f, **options: real(f, backend="aot_eager", **options)
torch.set_num_threads(1)
dist.init_process_group("gloo")
world = World(dist.get_rank(), dist.get_world_size())
gradients = []
for setting in (False, True):
    config = tiny_config(compile=setting)
    resources = Resources(Path(sys.argv[1]) / "teachers", world)
    teacher = resources.teacher(config, Memory())
    run = Run.start(config, world, resources.data(config), teacher)
    module = DistributedDataParallel(run.objective)
    for _ in range(2):  # the graph of the second step was compiled in the first
        run.objective.student.zero_grad()
        module(run.batch(), 0.5).loss.backward()
    gradients.append(torch.cat([p.grad.flatten() for p in run.objective.student.parameters()]))
every = [torch.empty_like(gradients[1]) for _ in range(world.size)]
dist.all_gather(every, gradients[1])
assert all(torch.equal(each, every[0]) for each in every), "the ranks differ"
torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3
end_rank()
"""


@pytest.mark.slow
def test_two_compiled_ranks_have_the_gradient_of_eager_ones(tmp_path: Path) -> None:
    """The trap: inside DistributedDataParallel Dynamo cuts graphs into buckets unless told not to."""
    launch(tmp_path, 2, COMPILED_RANKS)


def test_the_teacher_does_not_depend_on_the_setting() -> None:
    compiled, eager = (tiny_config(compile=setting) for setting in (True, False))
    assert compiled.teacher_run() == eager.teacher_run()
