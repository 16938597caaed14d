"""A small search to tell a tracker: two trials with pictures, one of them with a model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.random import make_generator
from meanflow_tune.data import EightGaussians
from meanflow_tune.losses import LossMix
from meanflow_tune.models import MLP
from meanflow_tune.records import Job, Outcome, Report, TrialRecord
from meanflow_tune.student_files import export_student
from meanflow_tune.time_samplers import UniformPairs
from meanflow_tune.tracking.events import Tracker
from tests.support.records import build_record

STUDY = "toy"
START = 1_700_000_000.0
SHAPE = (1, 4, 4)
CLASSES = 3


def small_config(seed: int = 0) -> dict[str, Any]:
    model = MLP(width=16, blocks=1, time_features=4, condition_width=8)
    return TrialConfig.from_dict(
        {
            "data": EightGaussians().model_dump(),
            "teacher": {"model": model.model_dump(), "budget": {"images": 64, "global_batch": 8}},
            "model": model.model_dump(),
            "losses": LossMix.mixture(backward=0.9, second_order=0.1).model_dump(),
            "time_sampler": UniformPairs().model_dump(),
            "budget": {"images": 64, "global_batch": 8, "rungs": [0.5, 1.0]},
            "seed": seed,
        }
    ).to_dict()


def make_student(folder: Path, classes: int | None = CLASSES) -> Path:
    config = small_config()
    net = TrialConfig.from_dict(config).model.build(SHAPE, classes, make_generator(7, "weights"))
    state = net.state_dict()
    return export_student(folder, config, state, SHAPE, classes)


def make_picture(path: Path) -> Path:
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)
    return path


def make_record(
    number: int,
    status: str = "running",
    reports: tuple[Report, ...] = (),
    baseline: str | None = None,
    study: str = STUDY,
) -> TrialRecord:
    gaps = [report.metrics["teacher_gap@1"] for report in reports]
    return build_record(
        number,
        status,  # type: ignore[arg-type]
        *reports,
        study=study,
        params={"loss/second_order/share": 0.1 * number, "sampler/kind": "uniform"},
        config=small_config(number),
        value=gaps[-1] if gaps else None,
        baseline=baseline,
        reason="" if status != "pruned" else "0.4 is not among the best third",
        folder=f"/nowhere/{number:05d}",
        started=START + number,
        rung_values=tuple((gap,) for gap in gaps),
        decisions=tuple(f"it goes on with {gap}" for gap in gaps),
        ended=START + 100 + number if status != "running" else None,
    )


def make_report(images: int, gap: float, artifacts: dict[str, str] | None = None) -> Report:
    return Report(
        images=images,
        metrics={"teacher_gap@1": gap, "teacher_gap@4": gap / 2, "loss/backward": 3.0},
        cost={"cpu_seconds": images / 10, "step_ms": 2.5},
        time=START + images,
        artifacts=artifacts or {},
    )


def tell(tracker: Tracker, folder: Path) -> None:
    """Trial 0: a baseline, completed with pictures and a model; trial 1: pruned; confirm/0 too."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = make_picture(folder / "grid.png")
    model = make_student(folder / "model")
    table = folder / "table.txt"
    table.write_text("a table")
    tracker.search_started({"goal": "Does it help?", "seed": 5, "objective": {"combine": "mean"}})
    first = make_report(32, 0.5, {"samples_nfe_1": str(picture), "samples": "/nowhere/s.npz"})
    second = make_report(64, 0.25, {"samples_nfe_1": str(picture)})
    for number, reports in ((0, (first, second)), (1, (make_report(32, 0.4),))):
        name = "backward" if number == 0 else None
        job = Job(STUDY, number, small_config(number), "/nowhere", 0, 1)
        tracker.trial_started(job, make_record(number, baseline=name))
        for count in range(1, len(reports) + 1):
            record = make_record(number, "running", reports[:count], name)
            tracker.reported(record, reports[count - 1])
    done = make_record(0, "completed", (first, second), "backward")
    tracker.ended(done, Outcome("completed"), model)
    tracker.ended(
        make_record(1, "pruned", (make_report(32, 0.4),)),
        Outcome("pruned", "0.4 is not among the best third"),
    )
    confirmed = make_record(0, "diverged", study=f"{STUDY}/confirm")
    tracker.catch_up([confirmed])
    tracker.search_ended({"status": "completed", "best": 0}, [table])


torch.set_num_threads(1)
