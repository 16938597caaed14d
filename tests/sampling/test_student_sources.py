"""Every way to name a student gives the same one; what names none is refused in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import meanflow_tune
from meanflow_tune.checksums import Damaged
from meanflow_tune.core.module_state import rebuilding_generator
from meanflow_tune.data import Digits
from meanflow_tune.records import Job
from meanflow_tune.sampling import StudentError
from meanflow_tune.sampling.sample_files import write_samples
from meanflow_tune.sampling.student_sources import remake_export
from meanflow_tune.student_files import CONFIG, WEIGHTS, check_export, export_student
from meanflow_tune.tracking.mlflow_store import connect
from meanflow_tune.tracking.models.logged_model import log_student, save_student
from meanflow_tune.training.job import run_job
from tests.support.paths import ROOT
from tests.support.tiny_run import Memory, tiny_config


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials, the second of which is trained and leads."""
    folder = tmp_path_factory.mktemp("runs") / "study"
    for number, config in enumerate((tiny_config(seed=1), tiny_config())):
        trial = folder / "trials" / f"{number:05d}"
        if number == 0:
            trial.mkdir(parents=True)
            (trial / CONFIG).write_text(json.dumps(config.to_dict()))
            continue
        job = Job("study", number, config.to_dict(), str(trial), 0, 1)
        outcome = run_job(job, 0, 1, "cpu", Memory(), cache=str(folder.parent / "teachers"))
        assert outcome.status == "completed"
        (folder / "best.json").write_text(json.dumps(config.to_dict(), indent=2))
    return folder


@pytest.fixture(scope="module")
def trial(study: Path) -> Path:
    return study / "trials" / "00001"


@pytest.fixture(scope="module")
def expected(trial: Path) -> np.ndarray:
    return meanflow_tune.load_student(trial / "model").sample(2, 20)


@pytest.fixture
def copied(trial: Path, tmp_path: Path) -> Path:
    """The trial as it was before it completed."""
    folder = tmp_path / "copied"
    shutil.copytree(trial, folder)
    shutil.rmtree(folder / "model")
    return folder


def last(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("*.pt"))


def test_local_sources_give_the_same_samples(
    study: Path, trial: Path, copied: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    alone = tmp_path / "elsewhere.pt"
    shutil.copy(last(trial), alone)
    save_student(trial / "model", tmp_path / "logged", None, None)
    sources = [trial, copied, last(trial), alone, study / "best.json", study, tmp_path / "logged"]
    for source in sources:
        student = meanflow_tune.load_student(source)
        np.testing.assert_array_equal(student.sample(2, 20), expected, err_msg=str(source))
        assert (student.shape, student.classes) == ((2,), None)
        assert student.config == tiny_config()
        np.testing.assert_array_equal(
            meanflow_tune.load_student(str(source)).sample(2, 20), expected
        )


def test_it_is_the_moving_average(trial: Path, expected: np.ndarray) -> None:
    state = torch.load(last(trial), weights_only=True)
    student = meanflow_tune.load_student(last(trial))
    raw = state["student"]
    different = [n for n, p in student.net.named_parameters() if not torch.equal(p, raw[n])]
    assert different, "the last step changed nothing"
    for name, own in student.net.named_parameters():
        assert torch.equal(own, state["ema"][name]), name


@pytest.mark.slow
def test_mlflow_uris_give_the_same_samples(
    trial: Path, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = connect(uri)
    experiment = client.create_experiment("study", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(experiment).info.run_id
    model = log_student(client, experiment, run, {}, "student", trial / "model", 320)
    client.create_registered_model("digits")
    source = client.get_logged_model(model).artifact_location
    client.create_model_version("digits", source, run, model_id=model)
    client.set_registered_model_alias("digits", "champion", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    sources = [f"models:/{model}", f"runs:/{run}/student", "models:/digits/1"]
    for given in [*sources, "models:/digits@champion"]:
        student = meanflow_tune.load_student(given)
        np.testing.assert_array_equal(student.sample(2, 20), expected, err_msg=given)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert meanflow_tune.load_student(sources[0], tracking_uri=uri).shape == (2,)
    for given, words in {
        f"runs:/{run}/model": rf"no model 'model'; it has runs:/{run}/student",
        "runs:/" + "0" * 32 + "/student": "not found",
        "models:/m-" + "0" * 32: "not found",
        "models:/digits/7": "not found",
        "models:/digits@nobody": "not found",
        "models:/digits": "must be models:/m-ID",
    }.items():
        with pytest.raises(StudentError, match=words) as caught:
            meanflow_tune.load_student(given, tracking_uri=uri)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["models:/m-" + "0" * 32, "runs:/1/student"])
def test_an_mlflow_uri_without_a_server_says_so(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudentError, match=r"no MLflow database .*mlflow.db; .*--tracking-uri"):
        meanflow_tune.load_student(uri)
    assert not list(tmp_path.iterdir()), "a database was made"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(
        StudentError, match=rf"{uri}: not available .* http://127.0.0.1:9"
    ) as caught:
        meanflow_tune.load_student(uri)
    assert "\n" not in str(caught.value)


def refusal(source: Path) -> str:
    with pytest.raises(StudentError) as caught:
        meanflow_tune.load_student(source)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(source))
    return message


def test_what_is_no_student_is_refused(study: Path, tmp_path: Path) -> None:
    assert "no such file or folder; give a checkpoint" in refusal(tmp_path / "nowhere")
    assert "holds no student; give a checkpoint" in refusal(tmp_path)
    assert "no checkpoint yet" in refusal(study / "trials" / "00000")
    (tmp_path / "best.json").write_text((study / "best.json").read_text())
    assert "no folder `trials` next to it" in refusal(tmp_path / "best.json")
    (tmp_path / "trials").mkdir()
    assert "has this configuration; give a trial's folder" in refusal(tmp_path / "best.json")
    (tmp_path / "best.json").write_text("{")
    assert "not JSON" in refusal(tmp_path / "best.json")
    (tmp_path / "best.json").write_text("[]")
    assert "holds list" in refusal(tmp_path / "best.json")
    (tmp_path / "notes.txt").write_text("hello")
    assert "no checkpoint, or damaged" in refusal(tmp_path / "notes.txt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    assert "no checkpoint of a run" in refusal(tmp_path / "other.pt")


@pytest.mark.parametrize("with_checksum", [True, False])
def test_a_damaged_checkpoint_is_refused(copied: Path, with_checksum: bool) -> None:
    path = last(copied)
    path.write_bytes(path.read_bytes()[:-1000])
    if not with_checksum:
        path.with_suffix(".sha256").unlink()
    assert "damaged" in refusal(path)
    warned: list[str] = []
    student = meanflow_tune.load_student(copied, warn=warned.append)
    assert len(warned) == 1
    assert student.shape == (2,), "the checkpoint before it"
    for other in (copied / "checkpoints").glob("*.pt"):
        other.write_bytes(b"")
    assert "every checkpoint in" in refusal(copied)


def test_a_damaged_export_is_refused(trial: Path, tmp_path: Path) -> None:
    shutil.copytree(trial / "model", tmp_path / "model")
    weights = tmp_path / "model" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    message = refusal(tmp_path / "model")
    assert (
        "damaged (student.safetensors: its checksum does not match), and no checkpoint" in message
    )
    assert f"train its configuration, {tmp_path / CONFIG}, by the train command" in message
    (tmp_path / "model" / CONFIG).unlink()
    assert "the export is not complete" in refusal(tmp_path / "model")


@pytest.mark.parametrize("part", [WEIGHTS, CONFIG])
def test_a_damaged_export_is_replaced_by_the_checkpoint_at_the_end_of_its_run(
    trial: Path, expected: np.ndarray, tmp_path: Path, part: str
) -> None:
    folder = tmp_path / "trial"
    shutil.copytree(trial, folder)
    (folder / "model" / part).write_bytes(b"{}")
    warned: list[str] = []
    student = meanflow_tune.load_student(folder, warn=warned.append)
    np.testing.assert_array_equal(student.sample(2, 20), expected)
    (line,) = warned
    assert line.startswith(f"{folder / 'model'} is damaged ({part}: its checksum does not match); ")
    last(folder).unlink()
    assert "no checkpoint of the end of its run" in refused(folder)


def refused(source: Path) -> str:
    with pytest.raises(StudentError) as caught:
        meanflow_tune.load_student(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_damaged_export_is_made_again_and_kept_aside(
    trial: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    folder, said = tmp_path / "trial" / "model", list[str]()
    shutil.copytree(trial, folder.parent)
    (folder / WEIGHTS).write_bytes(b"damaged")
    remake_export(folder, "its checksum does not match", said.append)
    check_export(folder)
    np.testing.assert_array_equal(meanflow_tune.load_student(folder).sample(2, 20), expected)
    (kept,) = (path for path in folder.glob(f"{WEIGHTS}.damaged-*") if path.suffix != ".sha256")
    assert kept.read_bytes() == b"damaged"
    (line,) = said
    assert "made again from its checkpoint" in line
    (folder / WEIGHTS).write_bytes(b"damaged")
    shutil.rmtree(folder.parent / "checkpoints")
    with pytest.raises(Damaged, match="and no checkpoint of the end of its run"):
        remake_export(folder, "its checksum does not match", said.append)
    assert (folder / WEIGHTS).read_bytes() == b"damaged", "what cannot be made again is not moved"


def test_an_export_of_an_earlier_revision_has_no_checksums(
    trial: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    shutil.copytree(trial / "model", tmp_path / "model")
    for path in (tmp_path / "model").glob("*.sha256"):
        path.unlink()
    np.testing.assert_array_equal(
        meanflow_tune.load_student(tmp_path / "model").sample(2, 20), expected
    )


def test_a_damaged_configuration_of_another_trial_does_not_hide_the_leader(
    study: Path, tmp_path: Path
) -> None:
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "study" / "trials" / "00000" / CONFIG).write_bytes(b"\xff{")
    assert meanflow_tune.load_student(tmp_path / "study" / "best.json").shape == (2,)


def test_arrays_are_written_whole(tmp_path: Path) -> None:
    ones = np.ones((3, 2), dtype=np.float32)
    write_samples(tmp_path / "a.npz", {1: ones, 4: 2 * ones}, 0 * ones, [7, 8, 9], None)
    with np.load(tmp_path / "a.npz") as arrays:
        assert set(arrays.files) == {"samples@1", "samples@4", "latents", "seeds"}
        np.testing.assert_array_equal(arrays["samples@4"], 2.0)
        assert arrays["seeds"].tolist() == [7, 8, 9]


def test_the_snippet_of_the_readme(tmp_path: Path) -> None:
    config = tiny_config(data=Digits()).to_dict()
    net = tiny_config(data=Digits()).network((1, 8, 8), 10, rebuilding_generator())
    trial = tmp_path / "runs" / "second_order" / "trials" / "00000"
    export_student(trial / "model", config, net.state_dict(), (1, 8, 8), 10)
    for path in (trial / CONFIG, trial.parents[1] / "best.json"):
        path.write_text(json.dumps(config))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (snippet,) = (block for block in blocks if "load_student" in block)
    code = f"{snippet}\nassert images.shape == (16, 1, 8, 8)\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)


def test_the_package_is_imported_without_torch() -> None:
    code = (
        "import meanflow_tune, sys; assert 'torch' not in sys.modules; meanflow_tune.load_student"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="no attribute 'load_model'"):
        meanflow_tune.load_model  # noqa: B018


def test_a_file_of_another_kind_is_refused_in_a_short_line(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_text('{"op_code": 0, "study": "s"}\n' * 40)
    with pytest.raises(
        StudentError, match=r"no checkpoint, or damaged \(.*not written by torch.save\)"
    ):
        meanflow_tune.load_student(str(path))
