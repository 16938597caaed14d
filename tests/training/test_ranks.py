"""Two real ranks over gloo train what one rank trains (the trap: DDP must wrap the objective)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel
from meanflow_tune.training.loop import Run, train
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.world import World, end_rank
from tests.training.tiny import CONFIGS, Memory

folder = Path(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo")
world = World(dist.get_rank(), dist.get_world_size())
resources, config = Resources(folder / "teachers", world), CONFIGS[sys.argv[2]]()
teacher = resources.teacher(config, Memory())
run = Run.start(config, world, resources.data(config), teacher)
module = DistributedDataParallel(run.objective) if world.size > 1 else run.objective
output = module(run.batch(), 0.5)
output.loss.backward()
gradient = {n: p.grad.clone() for n, p in run.objective.named_parameters()}
run = Run.start(config, world, resources.data(config), teacher)
sink = Memory()
outcome = train(run, folder / f"run{world.size}", sink, resources.evaluator(config, Memory()))
torch.save({"gradient": gradient, "weights": run.averaged_state()}, folder / f"{world.size}-{world.rank}.pt")
if world.leads:
    (folder / f"{world.size}.json").write_text(json.dumps([outcome.status, sink.reports[-1].metrics]))
end_rank()
"""


def launch(folder: Path, size: int, script: str = SCRIPT, name: str = "default") -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder), name], env=environment | {"RANK": str(rank)}
        )
        for rank in range(size)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * size


@pytest.fixture(scope="module", params=["default", pytest.param("wide", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    for size in (1, 2):
        launch(folder, size, name=request.param)
    return folder


def loaded(folder: Path, name: str, part: str) -> dict[str, torch.Tensor]:
    state: dict[str, dict[str, torch.Tensor]] = torch.load(folder / f"{name}.pt", weights_only=True)
    return state[part]


def test_two_ranks_have_the_gradient_of_the_whole_batch(folder: Path) -> None:
    whole = loaded(folder, "1-0", "gradient")
    for rank in (0, 1):
        halves = loaded(folder, f"2-{rank}", "gradient")
        for name, gradient in whole.items():
            scale = gradient.abs().max()
            assert (halves[name] - gradient).abs().max() < 2e-6 * scale + 1e-9, name


def test_two_ranks_end_with_the_same_weights_as_one(folder: Path) -> None:
    whole = loaded(folder, "1-0", "weights")
    ranks = [loaded(folder, f"2-{rank}", "weights") for rank in (0, 1)]
    for name, weight in whole.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), f"{name} differs between the ranks"
        assert torch.allclose(ranks[0][name], weight, rtol=1e-3, atol=1e-4), name


def test_two_ranks_measure_what_one_measures(folder: Path) -> None:
    one, two = (json.loads((folder / f"{size}.json").read_text()) for size in (1, 2))
    assert one[0] == two[0] == "completed"
    metrics: dict[str, Any] = {k: v for k, v in one[1].items() if "/" not in k}
    assert two[1] == pytest.approx(two[1] | metrics, rel=1e-2)
    loss = "loss/loss"
    assert two[1][loss] == pytest.approx(one[1][loss], rel=1e-3), "losses are means over the ranks"
