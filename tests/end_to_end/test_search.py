"""One whole search in miniature, by the command line, with real Ray, Optuna and MLflow."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.processes.commands import (
    ROOT,
    SPACE,
    TRIALS,
    assert_agreement,
    command,
    environment,
    mlflow_runs,
    run,
    states,
    study,
    table,
    wait_for,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A storage folder with a finished search, and what it printed."""
    storage = tmp_path_factory.mktemp("search") / "runs"
    done = run(command(storage))
    assert done.returncode == 0, done.stdout + done.stderr
    return storage, done.stdout


def test_study_table_and_mlflow_agree(finished: tuple[Path, str]) -> None:
    assert_agreement(finished[0], TRIALS)


def test_baselines_run_first_and_whole(finished: tuple[Path, str]) -> None:
    trials = study(finished[0]).trials
    assert [t.user_attrs.get("baseline") for t in trials[:2]] == ["backward", "backward_fast"]
    assert [t.state.name for t in trials[:2]] == ["COMPLETE", "COMPLETE"]
    assert [len(t.intermediate_values) for t in trials[:2]] == [3, 3]


def test_the_objective_is_the_stated_one(finished: tuple[Path, str]) -> None:
    frame = table(finished[0])
    expected = np.sqrt(frame["teacher_gap@1"] * frame["teacher_gap@2"])
    assert np.allclose(frame["value"], expected)


def test_summary_names_all_a_person_needs(finished: tuple[Path, str]) -> None:
    storage, printed = finished
    for name in (
        "results.parquet",
        "metrics.parquet",
        "best.json",
        "best.png",
        "report.html",
        "mlflow ui",
        "--trials 10",
    ):
        assert name in printed, name
    for name in ("results.parquet", "metrics.parquet", "best.json", "best.png", "report.html"):
        assert (storage / "tiny_space" / name).stat().st_size > 100


def test_confirmation_retrains_both_on_fresh_seeds_and_latents(
    finished: tuple[Path, str],
) -> None:
    storage, printed = finished
    confirmed = study(storage, "tiny_space/confirm").trials
    assert [t.state.name for t in confirmed] == ["COMPLETE"] * 4
    used = {t.user_attrs["config"]["seed"] for t in confirmed}
    searched = {t.user_attrs["config"]["seed"] for t in study(storage).trials}
    assert len(used) == 2
    assert not used & searched
    latents = {t.user_attrs["config"]["evaluation"]["latent_seed"] for t in confirmed}
    assert len(latents) == 1
    assert latents != {20_000}
    assert "on 2 fresh seeds" in printed
    assert "By metric, at the number of evaluations after @: teacher_gap@1" in printed
    assert_agreement(storage, 4, "tiny_space/confirm")


def test_best_json_runs_alone_and_reproduces_the_trial(finished: tuple[Path, str]) -> None:
    storage, _ = finished
    output = storage.parent / "alone"
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "train.py"),
            f"--config={storage / 'tiny_space' / 'best.json'}",
            f"--output={output}",
            f"--cache={storage / 'teachers'}",
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    alone = json.loads((output / "metrics.json").read_text())["teacher_gap@1"]
    frame = table(storage)
    last = frame[(frame["study"] == "tiny_space") & frame["is_last"]]
    best = last.loc[last[last["status"] == "completed"]["value"].idxmin()]
    assert alone == pytest.approx(best["teacher_gap@1"], rel=1e-5)


def test_a_logged_model_loads_elsewhere_without_pickle(finished: tuple[Path, str]) -> None:
    storage, _ = finished
    script = f"""
import mlflow, pandas as pd
mlflow.set_tracking_uri("sqlite:///{storage / "mlflow.db"}")
client = mlflow.MlflowClient()
names = [e.experiment_id for e in client.search_experiments()]
models = client.search_logged_models(names)
model = mlflow.pyfunc.load_model(models[0].model_uri)
images = model.predict(pd.DataFrame({{"seed": [1, 2, 3]}}), params={{"nfe": 2}})
again = model.predict(pd.DataFrame({{"seed": [2]}}), params={{"nfe": 2}})
print(images.shape, bool(abs(images[1] - again[0]).max() < 1e-6), len(models))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"),
        cwd=storage.parent,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    completed = sum(state == "COMPLETE" for state in states(storage).values())
    assert done.stdout.strip() == f"(3, 2) True {completed + 4}", "4 of the confirmation"


def test_mlflow_has_metrics_by_images_and_pictures(finished: tuple[Path, str]) -> None:
    import mlflow

    storage, _ = finished
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    runs = [r for r in mlflow_runs(storage) if r.data.tags.get("state") == "completed"]
    trial = next(r for r in runs if "meanflow_tune.trial" in r.data.tags)
    steps = [m.step for m in client.get_metric_history(trial.info.run_id, "teacher_gap/nfe_1")]
    assert steps == [3200, 6400, 12_800]
    assert any(a.path.startswith("images") for a in client.list_artifacts(trial.info.run_id))
    assert trial.data.params["optimizer.learning_rate"]


def test_the_same_command_again_reports_without_ray(finished: tuple[Path, str]) -> None:
    storage, printed = finished
    before = table(storage)
    began = time.monotonic()
    done = run(command(storage))
    assert done.returncode == 0
    assert "starting Ray" not in done.stdout
    assert time.monotonic() - began < 120
    assert done.stdout.partition("objective ")[2] == printed.partition("\nobjective ")[2]
    assert before.equals(table(storage))
    assert_agreement(storage, TRIALS)


def test_status_from_another_terminal(finished: tuple[Path, str]) -> None:
    storage, _ = finished
    done = run([*command(storage), "--status"])
    assert done.returncode == 0
    assert "no driver at work" in done.stdout
    table, best, sentence = done.stdout.partition("best so far: trial ")
    assert table.count("proposed") == TRIALS - 2
    assert best, "below the table"
    assert re.match(
        r"\d+ \((proposed|baseline \w+)\) with 0\.\d{4}( \(\d+\.\d % better|\n)", sentence
    )


def test_a_finished_search_is_extended_with_two_ranks_a_trial(finished: tuple[Path, str]) -> None:
    """Runs last: it changes the search of this module."""
    storage, _ = finished
    done = run(command(storage, "--workers-per-trial=2", "--confirm-seeds=0", trials=TRIALS + 2))
    assert done.returncode == 0, done.stderr
    assert "1 trial at once, 2 ranks each" in done.stdout
    assert_agreement(storage, TRIALS + 2)


def test_repeats_and_a_confirmation_of_all_baselines(tmp_path: Path) -> None:
    """Survivors are repeated on one more seed, the same for all; every family has its best of rates."""
    storage = tmp_path / "runs"
    space = tmp_path / "space" / "tiny_space.py"
    space.parent.mkdir()
    # Two families of a single learning rate each, so that the confirmation tunes the second.
    text = SPACE.read_text().replace(
        'REFERENCE = ("backward", "backward_fast")', 'REFERENCE = ("backward",)'
    )
    space.write_text(text)
    options = ("--repeats=1", "--confirm=2", "--confirm-seeds=1", f"--space={space}")
    done = run(command(storage, *options, trials=5))
    assert done.returncode == 0, done.stdout + done.stderr
    trials = study(storage).trials
    repeated = {t.number: t.user_attrs["repeat/1"] for t in trials if "repeat/1" in t.user_attrs}
    assert repeated
    assert all(trials[number].state.name == "COMPLETE" for number in repeated)
    told = {t.number: t.value for t in trials if t.state.name == "COMPLETE"}
    frame = table(storage)
    own = frame[(frame["study"] == "tiny_space") & frame["is_last"]]
    own = own[own["status"] == "completed"].set_index("number")["value"]
    assert {n: own[n] for n in told} == told, "the told value is that of its own run"
    rows = frame[(frame["study"] == "tiny_space") & (frame["repeat"] == 1)].set_index("number")
    assert {n: rows["value"][n] for n in repeated} == {
        n: entry["value"] for n, entry in repeated.items()
    }
    seeds = {
        json.loads(path.read_text())["seed"]
        for path in (storage / "tiny_space" / "trials").glob("*/repeats/1/config.json")
    }
    assert len(seeds) == 1
    confirmed = study(storage, "tiny_space/confirm").trials
    tuned = [t for t in confirmed if "learning_rate_factor" in t.params]
    assert len(confirmed) >= 2 * 3 + 2 + 1
    assert len(tuned) >= 2 * 3
    assert {t.state.name for t in confirmed} == {"COMPLETE"}
    assert (
        "by paired differences on 2 seeds; best.json" in done.stdout
        or "not repeated" in done.stdout
    )
    again = run(command(storage, *options, trials=5))
    assert again.returncode == 0
    assert "starting Ray" not in again.stdout, "nothing is left to confirm"


def test_ctrl_c_stops_at_a_safe_point_and_goes_on(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    driver = subprocess.Popen(
        command(storage, "--confirm-seeds=0"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        start_new_session=True,
    )
    wait_for(storage, driver, 1)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 130, said
    assert b"Resume with" in said
    assert b"Traceback" not in said
    left = states(storage)
    done = run(command(storage, "--confirm-seeds=0"))
    assert done.returncode == 0, done.stderr
    assert {n: s for n, s in states(storage).items() if left.get(n) in ("COMPLETE", "PRUNED")} == {
        n: s for n, s in left.items() if s in ("COMPLETE", "PRUNED")
    }
    assert_agreement(storage, TRIALS)
