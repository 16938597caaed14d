"""An exported student as an MLflow logged model: weights, configuration and this package's code.

The model contains the code, so loading it needs the listed packages but no checkout.
"""

import importlib.metadata
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.checksums import Damaged, refuse_damaged
from meanflow_tune.files import sqlite_path
from meanflow_tune.student_files import CONFIG, WEIGHTS, check_export
from meanflow_tune.tracking.mlflow_store import connect
from meanflow_tune.tracking.models import carried_code
from meanflow_tune.urls import hide_password

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

DATA = "data/student"  # of the export, in a model's folder
LOADER = "meanflow_tune_model"  # module at the top of a model's code
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pydantic", "safetensors", "torch")

_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


class ModelUnavailable(LookupError):
    """A model's URI leads nowhere, or MLflow does not answer; one line that names both."""


def log_student(
    client: "MlflowClient",
    experiment: str,
    run: str,
    tags: Mapping[str, str],
    name: str,
    folder: Path,
    step: int,
    repair: Callable[[Path, str], None] = refuse_damaged,
) -> str:
    """Log the student of a run once and return the model's id; an incomplete one is completed.

    tags: by which it is found again, whatever its name; name: of a new one; folder: made by
    `export_student`; step: images seen; repair: called with the folder and the reason where it is damaged.
    Raises FileNotFoundError if it is incomplete, and Damaged.
    """
    from mlflow.entities import LoggedModelOutput

    for part in (CONFIG, WEIGHTS):
        if not (folder / part).is_file():
            raise FileNotFoundError(f"{folder / part} is missing: the student was not exported.")
    model = logged_model(client, experiment, tags, run)
    if model is None:
        model = client.create_logged_model(
            experiment, name=name, source_run_id=run, tags=dict(tags)
        )
    if model.status != "READY":
        try:
            check_export(folder)
        except Damaged as error:
            repair(folder, str(error))
        with tempfile.TemporaryDirectory() as place:
            saved = Path(place) / "model"
            save_student(folder, saved, model, run)
            client.log_model_artifacts(model.model_id, str(saved))
        client.finalize_logged_model(model.model_id, "READY")
    outputs = client.get_run(run).outputs
    linked = {output.model_id for output in outputs.model_outputs} if outputs else set()
    if model.model_id not in linked:
        client.log_outputs(run, [LoggedModelOutput(model.model_id, step)])
    return str(model.model_id)


def logged_model(
    client: "MlflowClient", experiment: str, tags: Mapping[str, str], run: str | None = None
) -> "LoggedModel | None":
    """The model with these tags, of this run if one is named; None where there is none.

    Of two, which a server makes that answers too late, a whole one.
    """
    wanted = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    wanted += [f"source_run_id = '{run}'"] if run is not None else []
    found = client.search_logged_models([experiment], " AND ".join(wanted))
    return max(found, key=lambda model: (model.status == "READY", model.model_id), default=None)


def save_student(folder: Path, target: Path, model: "LoggedModel | None", run: str | None) -> None:
    """Write an MLflow model folder that loads by `mlflow.pyfunc`, without a pickle."""
    import mlflow.pyfunc
    from mlflow.models import Model

    description = Model(
        artifact_path=None if model is None else model.artifact_location,
        run_id=run,
        model_id=None if model is None else model.model_id,
    )
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "student"
        shutil.copytree(folder, data)
        loader = Path(place) / f"{LOADER}.py"
        shutil.copyfile(carried_code.__file__, loader)
        package = Path(place) / carried_code.PACKAGE
        pack_code(package)
        mlflow.pyfunc.save_model(
            str(target),
            mlflow_model=description,
            loader_module=LOADER,
            data_path=str(data),
            code_paths=[str(loader), str(package)],
            signature=signature(folder),
            input_example=example(folder),
            pip_requirements=[f"{name}=={_version(name)}" for name in REQUIREMENTS],
        )


def pack_code(target: Path) -> None:
    """This package as one zip, from which Python imports; equal sources give equal bytes."""
    source = Path(__file__).resolve().parents[2]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(source.rglob("*.py")):
            entry = zipfile.ZipInfo(file.relative_to(source.parent).as_posix())
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, file.read_bytes())


def download_student(uri: str, tracking_uri: str, place: Path) -> Path:
    """The export inside the logged model `models:/...` or `runs:/RUN/NAME`, copied below `place`.

    Raises ModelUnavailable; a database that does not exist is not created.
    """
    database = sqlite_path(tracking_uri)
    if database is not None and not database.is_file():
        raise ModelUnavailable(
            f"{uri}: there is no MLflow database {database}; name the server or database by --tracking-uri "
            "or MLFLOW_TRACKING_URI."
        )
    client = connect(tracking_uri)
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        location = _location(client, uri)
        mlflow.artifacts.download_artifacts(
            artifact_uri=location, dst_path=str(place), tracking_uri=tracking_uri
        )
    except (MlflowException, OSError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise ModelUnavailable(
            f"{uri}: not available from MLflow at {hide_password(tracking_uri)} ({hide_password(why)})."
        ) from None
    found = next((file.parent for file in place.rglob(f"{DATA}/{CONFIG}")), None)
    if found is None:
        raise ModelUnavailable(
            f"{uri}: a model without {DATA}/{CONFIG}, not a student of this package."
        )
    return found


def _location(client: "MlflowClient", uri: str) -> str:
    """Where a model's files are. By the client: mlflow's own way to a URI follows its global settings."""
    kind, _, path = uri.partition(":/")
    path = path.strip("/")
    if _MODEL_ID.fullmatch(path):
        return str(client.get_logged_model(path).artifact_location)
    name, _, rest = path.rpartition("@" if kind == "models" and "@" in path else "/")
    if not name or not rest:
        raise ModelUnavailable(
            f"{uri}: must be models:/m-ID, models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN/NAME."
        )
    if kind == "models":
        version = client.get_model_version_by_alias(name, rest).version if "@" in path else rest
        place = str(client.get_model_version_download_uri(name, version))
        return _location(client, place) if place.startswith("models:/") else place
    outputs = client.get_run(name).outputs
    logged = [
        client.get_logged_model(output.model_id)
        for output in (outputs.model_outputs if outputs else [])
    ]
    for model in logged:
        if model.name == rest:
            return str(model.artifact_location)
    known = ", ".join(f"runs:/{name}/{model.name}" for model in logged)
    raise ModelUnavailable(
        f"{uri}: that run has no model {rest!r}; it has {known or 'none, since its trial did not complete'}."
    )


def signature(folder: Path) -> Any:
    """Columns `seed` or `latent`, and `label`; parameter `nfe`; images [N, *D] float32."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array

    shape = _description(folder)["shape"]
    columns = [
        ColSpec(DataType.long, "seed", required=False),
        ColSpec(Array(DataType.double), "latent", required=False),
        ColSpec(DataType.long, "label", required=False),
    ]
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))]),
        params=ParamSchema([ParamSpec("nfe", DataType.long, 1)]),
    )


def example(folder: Path) -> tuple["pd.DataFrame", dict[str, int]]:
    """Two seeds (and labels), shown on MLflow's page of the model."""
    import pandas as pd

    columns = {"seed": [0, 1]}
    if _description(folder)["classes"] is not None:
        columns["label"] = [0, 0]
    return pd.DataFrame(columns), {"nfe": 1}


def _description(folder: Path) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return description


def _version(package: str) -> str:
    """The installed version without a local part (`+cpu`), which no registry has."""
    return importlib.metadata.version(package).partition("+")[0]
