"""A training run on several real ranks over gloo, each a process of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

SCRIPT = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel
from meanflow_tune.training.run import Run
from meanflow_tune.training.loop import train
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.world import World, end_rank
from tests.support.tiny_run import CONFIGS, Memory

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
reporter = Memory()
outcome = train(run, folder / f"run{world.size}", reporter, resources.evaluator(config, Memory()))
torch.save({"gradient": gradient, "weights": run.averaged_state()}, folder / f"{world.size}-{world.rank}.pt")
if world.leads:
    (folder / f"{world.size}.json").write_text(json.dumps([outcome.status, reporter.reports[-1].metrics]))
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
