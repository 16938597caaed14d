"""Loading a trained student from whatever names one; always its moving average.

A checkpoint and the export of the same run give the same network to the bit.
"""

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from meanflow_tune.checksums import Damaged, digest, put_aside
from meanflow_tune.config import TrialConfig
from meanflow_tune.core.module_state import load_whole_state, rebuilding_generator, whole_state
from meanflow_tune.data.errors import DataUnavailable
from meanflow_tune.files import mlflow_uri
from meanflow_tune.formats import FormatError
from meanflow_tune.remote.location import UnusableRemote, is_remote
from meanflow_tune.remote.reading import fetch_student
from meanflow_tune.sampling.errors import StudentError
from meanflow_tune.student_files import CONFIG, WEIGHTS, export_student
from meanflow_tune.tracking.models.logged_model import DATA, ModelUnavailable, download_student
from meanflow_tune.tracking.student_model import Student
from meanflow_tune.tracking.student_model import load_student as load_export
from meanflow_tune.training.checkpoints import load_checkpoint, newest_checkpoint

log = logging.getLogger(__name__)

STORAGE = Path("runs")
MODEL = "model"  # the folder of an export in that of its run
EXPECTED = (
    "give a checkpoint (.pt), a trial's folder (runs/STUDY/trials/NUMBER), a study's best.json, an exported "
    "model folder, or an MLflow URI (models:/... or runs:/...)"
)
_REMOTE = re.compile(r"(models|runs):/")


def load_student(
    source: str | Path,
    device: str = "cpu",
    tracking_uri: str | None = None,
    warn: Callable[[str], None] = log.warning,
) -> Student:
    """The student that `source` names, with `.sample(...)`, `.config`, `.shape` and `.classes`.

    source: a checkpoint file of a run; the folder of a trial (or an output folder of the train command),
    whose export counts before its newest valid checkpoint; the best.json of a study, which stands for the
    trial that has this configuration; an exported folder; an MLflow URI `models:/...` or `runs:/RUN/NAME`,
    or a folder downloaded from there.

    tracking_uri: of MLflow; MLFLOW_TRACKING_URI where it is None, else the database in runs/. warn: gets a
    line per damaged checkpoint that is passed over. Raises StudentError.
    """
    text = str(source)
    if _REMOTE.match(text):
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        with tempfile.TemporaryDirectory() as place:
            try:
                folder = download_student(text, uri or mlflow_uri(STORAGE.absolute()), Path(place))
            except ModelUnavailable as error:
                raise StudentError(str(error)) from None
            student = _of_folder(folder, text, warn)
    else:
        try:
            path = fetch_student(text) if is_remote(text) else Path(source).expanduser()
        except UnusableRemote as error:
            raise StudentError(f"{error}.") from None
        if not path.exists():
            raise StudentError(f"{text}: no such file or folder; {EXPECTED}.")
        if path.is_dir():
            student = _of_folder(path, text, warn)
        elif path.suffix == ".json":
            student = _of_folder(leader_folder(path), text, warn)
        else:
            student = _of_checkpoint(path)
    student.net.to(device)
    return student


def leader_folder(best: Path) -> Path:
    """The folder of the trial whose configuration a best.json holds. Raises StudentError."""
    config = _read_json(best)
    trials = best.parent / "trials"
    if not trials.is_dir():
        raise StudentError(
            f"{best}: there is no folder `trials` next to it, so that it is a configuration without "
            "weights; give the best.json in the study's folder, or train this one by the train command."
        )
    try:
        wanted = (config, TrialConfig.from_dict(config).to_dict())
    except ValueError as error:
        raise StudentError(f"{best}: not a configuration ({error}).") from None
    found = [folder for folder in _trials(trials) if _config_of(folder) in wanted]
    if not found:
        raise StudentError(
            f"{best}: no trial in {trials} has this configuration; give a trial's folder."
        )
    exported = (folder for folder in found if (folder / "model" / CONFIG).is_file())
    return next(exported, found[0])


def _config_of(trial: Path) -> dict[str, Any] | None:
    """A trial's configuration; None where the file is damaged, which is not the trial that is looked for."""
    try:
        return _read_json(trial / CONFIG)
    except StudentError as error:
        log.debug("%s", error)
        return None


def _trials(folder: Path) -> Iterator[Path]:
    return (each for each in sorted(folder.iterdir()) if (each / CONFIG).is_file())


def _of_folder(folder: Path, name: str, warn: Callable[[str], None]) -> Student:
    """From an export, an MLflow model, a run or a study; name: what the user gave."""
    for export in (folder, folder / MODEL, folder / DATA):
        # An export's config.json is written last.
        if (export / CONFIG).is_file() and (export / WEIGHTS).is_file():
            return _of_export(export, warn)
    if (folder / "best.json").is_file():
        return _of_folder(leader_folder(folder / "best.json"), name, warn)
    if (folder / WEIGHTS).is_file():
        raise StudentError(
            f"{name}: {CONFIG} is missing next to {WEIGHTS}: the export is not complete."
        )
    if not (folder / CONFIG).is_file() and not (folder / "checkpoints").is_dir():
        raise StudentError(f"{name}: the folder holds no student; {EXPECTED}.")
    checkpoint = newest_checkpoint(folder / "checkpoints", warn)
    if checkpoint is None:
        damaged = any((folder / "checkpoints").glob("*.pt"))
        raise StudentError(
            f"{name}: every checkpoint in {folder / 'checkpoints'} is damaged; run the trial again."
            if damaged
            else f"{name}: the run has no checkpoint yet, or --keep-checkpoints removed it; wait for its "
            f"first rung, resume it, or train {folder / CONFIG} again."
        )
    return _of_checkpoint(checkpoint)


def _of_export(folder: Path, warn: Callable[[str], None]) -> Student:
    """From an export; where that is damaged, from the checkpoint at the end of the same run."""
    try:
        return load_export(folder)
    except Damaged as error:
        try:
            student = _replacement(folder)
        except StudentError as reason:
            raise StudentError(f"{folder}: damaged ({error}), and {reason}") from None
        warn(f"{folder} is damaged ({error}); its run's last checkpoint, the same student, is used")
        return student
    except Exception as error:  # of json, pydantic, safetensors and torch
        raise StudentError(f"{folder}: damaged, or of another version ({_line(error)}).") from None


def _replacement(export: Path) -> Student:
    """The same student from the checkpoint at the end of its run. Raises StudentError."""
    checkpoints = export.parent / "checkpoints"
    path = newest_checkpoint(checkpoints, lambda line: None) if export.name == MODEL else None
    if path is not None:
        with suppress(StudentError):
            return _of_checkpoint(path, finished=True)
    raise StudentError(
        f"no checkpoint of the end of its run is in {checkpoints} to replace it; train its configuration, "
        f"{export.parent / CONFIG}, by the train command with another --output."
    )


def remake_export(folder: Path, why: str, say: Callable[[str], None]) -> None:
    """Make a damaged export again from the last checkpoint of its run; the damaged files are put aside.

    Raises Damaged where there is no such checkpoint, and OSError.
    """
    try:
        student = _replacement(folder)
    except StudentError as reason:
        raise Damaged(f"{folder} is damaged ({why}), and {reason}") from None
    kept = [put_aside(path).name for path in (folder / WEIGHTS, folder / CONFIG) if path.exists()]
    config, state = student.config.to_dict(), whole_state(student.net)
    export_student(folder, config, state, student.shape, student.classes)
    say(
        f"the student {folder} is damaged ({why}): it is kept as {' and '.join(kept)} and made again from "
        "its checkpoint"
    )


def _of_checkpoint(path: Path, finished: bool = False) -> Student:
    """The moving average of a checkpoint: its averaged parameters, the buffers of its student.

    finished: refuse one from before the end of its run.
    """
    remedy = (
        "give an older checkpoint, or the trial's folder, which falls back to the newest valid one"
    )
    checksum = path.with_suffix(".sha256")
    try:
        # A copy may come without its checksum.
        if checksum.is_file() and checksum.read_bytes() != digest(path).encode():
            raise StudentError(f"{path}: damaged, its checksum does not match; {remedy}.")
        state = load_checkpoint(path)
    except OSError as error:
        raise StudentError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except Damaged as error:
        raise StudentError(f"{path}: no checkpoint, or damaged ({error}); {remedy}.") from None
    except FormatError as error:
        raise StudentError(f"{error}.") from None
    if not {"config", "student", "ema"} <= state.keys():
        raise StudentError(f"{path}: no checkpoint of a run; {EXPECTED}.")
    try:
        config = TrialConfig.from_dict(state["config"])
        if finished and state["step"] != config.budget.steps:
            raise StudentError(f"{path}: its run had not ended.")
        data = config.data.load()
        net = config.network(data.shape, data.classes, rebuilding_generator())
        load_whole_state(net, state["student"])
        with torch.no_grad():
            for weight, own in net.named_parameters():
                own.copy_(state["ema"][weight])
    except DataUnavailable as error:
        raise StudentError(
            f"{path}: its data set, whose shape is needed: {_line(error)}."
        ) from None
    except StudentError:
        raise
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise StudentError(f"{path}: does not fit this version ({_line(error)}).") from None
    return Student(net.eval().requires_grad_(False), data.shape, data.classes, config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise StudentError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:  # also of text that is not UTF-8
        raise StudentError(
            f"{path}: damaged, not JSON ({error}); the command of the search writes it again."
        ) from None
    if not isinstance(found, dict):
        raise StudentError(f"{path}: holds {type(found).__name__}, no configuration.")
    return found


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
