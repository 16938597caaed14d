"""A trial that was really trained, with its teacher, files of samples, checkpoints and model."""

from pathlib import Path

from meanflow_tune.config import Evaluation
from meanflow_tune.metrics import TeacherGap
from meanflow_tune.records import Job, TrialRecord
from meanflow_tune.search.store.trials import trial_folder
from meanflow_tune.training.job import run_job
from tests.support.page.page_study import OBJECTIVES
from tests.support.records import build_record
from tests.support.tiny_run import Memory, tiny_config


def train_trial(storage: Path, number: int = 0, **fields: object) -> TrialRecord:
    """A completed trial of the study `s` in `storage`, on points of the plane."""
    evaluation = Evaluation(nfe=(1, 2, 4), samples=64, metrics=(TeacherGap(),))
    config = tiny_config(seed=number, evaluation=evaluation).to_dict()
    folder, reporter = trial_folder(storage / "s", number), Memory()
    job = Job("s", number, config, str(folder), 0, 1)
    outcome = run_job(job, 0, 1, "cpu", reporter, cache=str(storage / "teachers"))
    assert outcome.status == "completed"
    values = tuple(OBJECTIVES.values(report) for report in reporter.reports)
    given = {"config": config, "folder": str(folder), "rung_values": values, "values": values[-1]}
    return build_record(number, "completed", *reporter.reports, **(given | fields))
