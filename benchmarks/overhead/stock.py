"""The other sides of `benchmark.py search`: Ray Tune, Ray Train and Optuna as in their manuals."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.overhead import short_space
from benchmarks.overhead.trials import (
    TRAINING,
    Collected,
    config_of,
    gap,
    job_of,
    rung_images,
    save,
    shared_sum,
    told,
)
from meanflow_tune.plan.request import TEACHERS
from meanflow_tune.records import Report

Tell = Callable[[int, float], None]
CPUS = 2


def one_process(kind: str, trials: int, folder: Path, tell: Tell) -> None:
    """`study.optimize` with a journal; trials train in this process."""
    import optuna
    import torch
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        config = short_space.suggest(trial).to_dict()
        place = folder / f"{trial.number:05d}"
        if kind == "trivial":
            training, value = 0.0, 0.0
            for rung, images in enumerate(rung_images(config), start=1):
                value = gap(config, rung)
                save(place / f"{images:012d}.pt", rung)
                trial.report(value, images)
        else:
            reporter = Collected(lambda r: trial.report(told(r)["gap"], r.images))
            _train(config, place, 0, 1, reporter, folder)
            last = told(reporter.reports[-1])
            training, value = last[TRAINING], last["gap"]
        training_of[trial.number] = training
        return value

    training_of: dict[int, float] = {}
    journal = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    study = optuna.create_study(storage=journal, sampler=optuna.samplers.TPESampler(seed=0))
    # Reported by a callback, which runs once the trial is stored.
    study.optimize(
        objective, trials, callbacks=[lambda _, t: tell(t.number, training_of[t.number])]
    )


def functions(kind: str, trials: int, folder: Path, tell: Tell) -> None:
    """One Tune function per trial, each in a new process (`reuse_actors` is off by default)."""
    _tune(partial(_function, kind=kind, folder=str(folder)), {"cpu": 1}, trials, folder, tell)


def trainers(kind: str, workers: int, trials: int, folder: Path, tell: Tell) -> None:
    """One Tune function per trial that runs a `TorchTrainer`, which reports by `TuneReportCallback`.

    The function requests memory, because with its own CPU two workers on two CPUs would never start.
    """
    trial = partial(_trainer, kind=kind, workers=workers, folder=str(folder))
    _tune(trial, {"memory": 1e6}, trials, folder, tell)


def _tune(
    function: Any, resources: dict[str, float], trials: int, folder: Path, tell: Tell
) -> None:
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    class Told(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **_: Any
        ) -> None:
            tell(len(done), float(trial.last_result[TRAINING]))
            done.add(trial.trial_id)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            raise RuntimeError(f"trial {trial.trial_id} failed")

        def __reduce__(self) -> tuple[Any, ...]:
            return tune.Callback, ()  # Tune pickles its settings, and `tell` holds a pipe

    done: set[str] = set()
    with _ray():
        results = tune.Tuner(
            tune.with_resources(function, resources),
            tune_config=tune.TuneConfig(
                num_samples=trials,
                max_concurrent_trials=1,
                search_alg=OptunaSearch(_space, metric="gap", mode="min", seed=0),
            ),
            run_config=tune.RunConfig(
                name="stock", storage_path=str(folder / "tune"), callbacks=[Told()], verbose=0
            ),
        ).fit()
    if results.errors:
        raise RuntimeError(f"{len(results.errors)} trials failed: {results.errors[0]}")


def _space(trial: Any) -> None:
    short_space.suggest(trial)


def _function(params: dict[str, Any], kind: str, folder: str) -> None:
    """A trial as a Tune function."""
    from ray import tune

    config = config_of(params)
    place = Path(folder) / "trials" / str(tune.get_context().get_trial_id())
    if kind == "short":
        _train(config, place, 0, 1, Collected(lambda r: tune.report(told(r))), Path(folder))
        return
    for rung, _ in enumerate(rung_images(config), start=1):
        with tempfile.TemporaryDirectory() as made:
            save(Path(made) / "state.pt", rung)
            tune.report(
                {"gap": gap(config, rung), TRAINING: 0.0},
                checkpoint=tune.Checkpoint.from_directory(made),
            )


def _trainer(params: dict[str, Any], kind: str, workers: int, folder: str) -> None:
    """A trial as a Tune function with its own worker group."""
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    name = str(tune.get_context().get_trial_id())
    place = str(Path(folder) / "trials" / name)
    TorchTrainer(
        _worker,
        train_loop_config={"params": params, "kind": kind, "place": place, "folder": folder},
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(
            name=name, storage_path=f"{folder}/train", callbacks=[TuneReportCallback()]
        ),
    ).fit()


def _worker(given: dict[str, Any]) -> None:
    """What every rank of a `TorchTrainer` runs; all ranks report, as Ray Train requires."""
    from ray import train

    context = train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    config = config_of(given["params"])
    if given["kind"] == "short":
        reporter = Collected()
        _train(config, Path(given["place"]), rank, size, reporter, Path(given["folder"]))
        # At the end, because the training loop lets only rank 0 report.
        for report in _shared(reporter.reports, size):
            train.report(told(report))
        return
    for rung, _ in enumerate(rung_images(config), start=1):
        shared_sum(1.0, size)
        metrics = {"gap": gap(config, rung), TRAINING: 0.0}
        if rank > 0:
            train.report(metrics)
            continue
        with tempfile.TemporaryDirectory() as made:
            save(Path(made) / "state.pt", rung)
            train.report(metrics, checkpoint=train.Checkpoint.from_directory(made))


def _train(
    config: dict[str, Any], place: Path, rank: int, size: int, reporter: Collected, storage: Path
) -> None:
    from meanflow_tune.training.job import run_job

    job = job_of(config, place)
    outcome = run_job(job, rank, size, "cpu", reporter, cache=str(storage / TEACHERS))
    if outcome.status != "completed":
        raise RuntimeError(f"a trial ended as {outcome.status}: {outcome.reason}")


def _shared(reports: list[Report], size: int) -> list[Report]:
    if size == 1:
        return reports
    import torch.distributed as dist

    box = [reports]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def _ray() -> Iterator[None]:
    """A plain Ray cluster on this machine."""
    import ray

    ray.init("local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
