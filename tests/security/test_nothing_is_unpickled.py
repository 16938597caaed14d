"""Whoever can write the storage folder must not run code in the processes that read it.

A pickle that creates a file is planted in every file that is read; every reader refuses it in one line.
"""

import ast
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import meanflow_tune
from meanflow_tune import results
from meanflow_tune.checksums import write_checked
from meanflow_tune.driver import report_command, tune_command
from meanflow_tune.sampling import StudentError
from meanflow_tune.tracking.models.logged_model import save_student
from meanflow_tune.training.job import run_job
from tests.support.page.stored_page_study import store_study
from tests.support.page.trained_trial import train_trial
from tests.support.paths import PACKAGE, ROOT
from tests.support.tiny_run import Memory, tiny_config

# Ray's own channel between the processes of a search, which a token closes.
ALLOWED = {"cluster/worker.py": {"cloudpickle.loads"}, "cluster/slots/spec.py": set[str]()}
LOADERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
BUILT_IN = {"eval", "exec", "compile", "__import__"}


class Payload:
    """Its pickle creates a file where it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            found.append((ast.unparse(node.func), node))
    return found


def keywords(node: ast.Call) -> dict[str | None, str]:
    return {each.arg: ast.unparse(each.value) for each in node.keywords}


SOURCES = sorted(
    path for top in ("meanflow_tune", "scripts", "search_spaces", "benchmarks")
    for path in (ROOT / top).rglob("*.py")
)  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_loads_code_from_data(path: Path) -> None:
    inside = str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else ""
    for name, node in calls(path):
        head, _, last = name.partition(".")
        given = keywords(node)
        if name in ("torch.load", "load") and "weights_only" in given:
            assert given["weights_only"] == "True", f"{path}:{node.lineno}"
        assert name != "torch.load" or "weights_only" in given, f"{path}:{node.lineno}"
        if name.startswith(("np.", "numpy.")) and last in ("load", "save", "savez"):
            assert given.get("allow_pickle") == "False", f"{path}:{node.lineno}"
        assert last not in ("read_pickle", "to_pickle"), f"{path}:{node.lineno}"
        loads = head in LOADERS and last in ("load", "loads", "open", "Unpickler", "full_load")
        assert not loads or name in ALLOWED.get(inside, set()), f"{path}:{node.lineno}: {name}"
        assert name not in BUILT_IN, f"{path}:{node.lineno}: {name}"


def test_the_exceptions_are_needed() -> None:
    for inside, names in ALLOWED.items():
        assert names <= {name for name, _ in calls(PACKAGE / inside)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder with a finished study of one trained trial, its teacher and its results."""
    storage = tmp_path_factory.mktemp("made")
    record = train_trial(storage, 0)
    study = store_study(storage, "read", trials=3)
    shutil.copytree(record.folder, study / "trials" / "00000")
    (study / "best.json").write_text(json.dumps(record.config))
    save_student(Path(record.folder) / "model", storage / "logged", None, None)
    return storage


@pytest.fixture
def storage(made: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "storage"
    shutil.copytree(made, folder)
    return folder


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def pickled(canary: Path) -> bytes:
    return pickle.dumps(Payload(canary))


def plant(path: Path, canary: Path) -> None:
    """The payload in the place of a file, by the file's own kind, and with a right checksum."""
    if path.suffix == ".pt":
        torch.save({"format": 2, "config": Payload(canary)}, path)
        import hashlib

        checksum = path.with_suffix(".sha256")
        checksum.write_text(hashlib.sha256(path.read_bytes()).hexdigest())
        return
    if path.suffix == ".npz":
        np.savez(path, latents=np.array([Payload(canary)], dtype=object))
        return
    if path.suffix == ".parquet":
        path.write_bytes(parquet_of_pickles(canary))
        return
    if path.suffix == ".safetensors":
        header = json.dumps({"__metadata__": {"pickle": pickled(canary).hex()}}).encode()
        content = len(header).to_bytes(8, "little") + header + pickled(canary)
        write_checked(path, lambda to: to.write_bytes(content))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickled(canary))


def parquet_of_pickles(canary: Path) -> bytes:
    """A column of bytes that is said to be one of Python objects, by the names that loaded them once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.array([pickled(canary)], pa.binary())
    extension = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickled(canary),
    }
    field = pa.field("value", pa.binary(), metadata=extension)
    about = {"pandas": json.dumps({"columns": [{
        "name": "value", "field_name": "value", "pandas_type": "object", "numpy_type": "object",
        "metadata": {"encoding": "pickle"}}], "index_columns": [], "pandas_version": "2.0.0"})}  # fmt: skip
    table = pa.Table.from_arrays([column], schema=pa.schema([field], metadata=about))
    to = io.BytesIO()
    pq.write_table(table, to)
    return to.getvalue()


def test_the_payload_works(canary: Path) -> None:
    """Without this, the tests below would pass on nothing."""
    pickle.loads(pickled(canary))
    assert canary.exists()


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert "weights_only" not in text
    assert "allow_pickle" not in text
    return text


@pytest.mark.parametrize("part", ["model/student.safetensors", "model/config.json", "config.json"])
def test_a_student_is_not_unpickled(storage: Path, canary: Path, part: str) -> None:
    trial = storage / "read" / "trials" / "00000"
    plant(trial / part, canary)
    said: list[str] = []
    student = meanflow_tune.load_student(trial, warn=said.append)
    assert student.shape == (2,), "from its checkpoint, or without what was planted"
    assert all("\n" not in line for line in said)
    shutil.rmtree(trial / "checkpoints")
    if part.startswith("model/"):
        with pytest.raises(StudentError, match="damaged") as caught:
            meanflow_tune.load_student(trial)
        one_line(caught.value)
    assert not canary.exists()


def test_a_checkpoint_and_best_json_are_not_unpickled(storage: Path, canary: Path) -> None:
    trial = storage / "read" / "trials" / "00000"
    shutil.rmtree(trial / "model")
    for path in (trial / "checkpoints").glob("*.pt"):
        plant(path, canary)
    for source in (trial, max((trial / "checkpoints").glob("*.pt"))):
        with pytest.raises(StudentError, match="more than tensors and plain data") as caught:
            meanflow_tune.load_student(source)
        one_line(caught.value)
    plant(storage / "read" / "best.json", canary)
    with pytest.raises(StudentError, match="damaged, not JSON") as caught:
        meanflow_tune.load_student(storage / "read" / "best.json")
    one_line(caught.value)
    assert not canary.exists()


def test_training_resumes_past_planted_files(storage: Path, canary: Path) -> None:
    """Checkpoints, the teacher, its checkpoints, samples, curve and export of the same run."""
    from meanflow_tune.records import Job

    config = tiny_config().to_dict()
    job = Job("s", 9, config, str(storage / "s" / "trials" / "00009"), 0, 1)
    cache = str(storage / "teachers")
    whole = Memory()
    assert run_job(job, 0, 1, "cpu", whole, cache=cache).status == "completed"
    shutil.copytree(storage, storage.parent / "again")
    from meanflow_tune.training import job as job_module

    job_module._resources.clear()
    patterns = ("s/trials/00009/**/*", "teachers/**/*")
    planted = [p for pattern in patterns for p in storage.glob(pattern) if p.is_file()]
    kinds = (".pt", ".safetensors", ".json", ".npz")
    for path in planted:
        if path.suffix in kinds:
            plant(path, canary)
    reporter = Memory()
    assert run_job(job, 0, 1, "cpu", reporter, cache=cache).status == "completed"
    job_module._resources.clear()
    assert len(reporter.faults) >= 3
    assert all("\n" not in line and "weights_only" not in line for line in reporter.faults)
    gaps = [[r.metrics["teacher_gap@1"] for r in each.reports] for each in (whole, reporter)]
    assert gaps[0] == gaps[1]
    assert not canary.exists()


@pytest.mark.parametrize("name", ["results.parquet", "metrics.parquet"])
def test_tables_are_not_unpickled(storage: Path, canary: Path, name: str) -> None:
    study = storage / "read"
    for each in ("results.parquet", "metrics.parquet"):
        pd.DataFrame({"value": [1.0]}).to_parquet(study / each)
    plant(study / name, canary)
    try:
        tables = results.load(study)
    except results.ResultsError as error:
        one_line(error)
    else:
        frame = tables.trials if name == "results.parquet" else tables.metrics
        assert all(isinstance(value, bytes) for value in frame["value"])
    assert not canary.exists()


READ = [
    *("manifest.json", "study.journal", "status.json", "lease.json", "best.json"),
    *("results.parquet", "metrics.parquet", "outbox/events.jsonl", "outbox/cursor.json"),
    *("outbox/rejected.jsonl", "outbox/uid", "trials/00000/config.json"),
]


@pytest.mark.parametrize("name", READ)
def test_commands_do_not_unpickle(
    storage: Path, canary: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--status and the report of a study whose file is the payload: a line at most, and no traceback."""
    plant(storage / "read" / name, canary)
    where = ["--storage", str(storage), "--study", "read"]
    output = ["--out", str(storage / "x.html")]
    for main, options in ((tune_command.main, ["--status"]), (report_command.main, output)):
        status = main([*where, *options])
        told = capsys.readouterr()
        assert status in (0, 2, 5), (main, told.err)
        assert len(told.err.strip().splitlines()) <= (1 if status else 3), told.err
        assert "allow_pickle" not in told.err + told.out
        assert not canary.exists(), main


def test_a_planted_attribute_of_a_study_is_data(storage: Path, canary: Path) -> None:
    """Optuna keeps attributes as JSON; a text that is a pickle stays a text, as bytes or in base64."""
    from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
    from meanflow_tune.search.store.trials import read_records

    journal = storage / "read" / JOURNAL_NAME
    writer = open_storage(journal, lambda: None)
    (study, *_) = writer.get_all_studies()
    trial = writer.get_all_trials(study._study_id)[0]
    text = pickled(canary).hex()
    for key in ("cma:optimizer", "cmaes:generation", "restart:optimizer", "nsga2:generation"):
        writer.set_study_system_attr(study._study_id, key, text)
        writer.set_study_user_attr(study._study_id, key, text)
    reader = open_storage(journal)
    assert len(read_records(reader, "read", storage / "read")) == 3
    assert trial.number == 0
    assert not canary.exists()


@pytest.mark.slow
def test_a_planted_model_is_not_unpickled(storage: Path, canary: Path) -> None:
    """Ours reads weights and configuration; MLflow itself refuses a pickled model in our processes."""
    model = storage / "logged"
    plant(model / "python_model.pkl", canary)
    assert meanflow_tune.load_student(model).shape == (2,)
    text = (model / "MLmodel").read_text()
    changed = re.sub(
        r"loader_module: .*",
        "loader_module: mlflow.pyfunc.model\n    python_model: python_model.pkl",
        re.sub(r"\n +data: .*", "", text),
    )
    assert changed != text
    (model / "MLmodel").write_text(changed)
    assert meanflow_tune.load_student(model).shape == (2,)
    script = (
        "from meanflow_tune.tracking.mlflow_store import connect\n"
        "connect('http://127.0.0.1:9')\n"
        f"import mlflow.pyfunc; mlflow.pyfunc.load_model({str(model)!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", None)

    def load(**changes: str) -> str:
        words = [sys.executable, "-c", script]
        done = subprocess.run(words, env=environment | changes, capture_output=True, text=True)
        return done.stderr

    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" in load()
    assert not canary.exists()
    load(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="true")
    assert canary.exists(), "the payload would have worked"


def test_an_archive_in_the_place_of_a_file_is_refused(storage: Path, canary: Path) -> None:
    """A zip file with torch's layout and a pickle of another name."""
    path = max((storage / "read" / "trials" / "00000" / "checkpoints").glob("*.pt"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(canary))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    path.with_suffix(".sha256").unlink()
    with pytest.raises(StudentError, match="more than tensors and plain data") as caught:
        meanflow_tune.load_student(path)
    one_line(caught.value)
    assert not canary.exists()
