"""An exported student as an MLflow logged model: weights, configuration and this package's code.

The model contains the code, so loading it needs the listed packages but no checkout.
"""

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.student_files import CONFIG, WEIGHTS

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

NAME = "student"
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pydantic", "safetensors", "torch")


def log_student(
    client: "MlflowClient",
    experiment: str,
    run: str,
    tags: Mapping[str, str],
    folder: Path,
    step: int,
) -> str:
    """Log the student of a run once and return the model's id; an incomplete one is completed.

    folder: made by `export_student`; step: images seen. Raises FileNotFoundError if it is incomplete.
    """
    from mlflow.entities import LoggedModelOutput

    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: the student was not exported.")
    found = client.search_logged_models([experiment], f"source_run_id = '{run}'")
    model = next((model for model in found if model.name == NAME), None)
    if model is None:
        model = client.create_logged_model(
            experiment, name=NAME, source_run_id=run, tags=dict(tags)
        )
    if model.status != "READY":
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


def save_student(folder: Path, target: Path, model: "LoggedModel | None", run: str | None) -> None:
    """Write an MLflow model folder that loads by `mlflow.pyfunc`, without a pickle."""
    import mlflow.pyfunc
    from mlflow.models import Model

    import meanflow_tune

    description = Model(
        artifact_path=None if model is None else model.artifact_location,
        run_id=run,
        model_id=None if model is None else model.model_id,
    )
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "student"
        shutil.copytree(folder, data)
        code = Path(place) / "meanflow_tune"
        source = Path(meanflow_tune.__file__).parent
        shutil.copytree(source, code, ignore=shutil.ignore_patterns("__pycache__"))
        mlflow.pyfunc.save_model(
            str(target),
            mlflow_model=description,
            loader_module="meanflow_tune.tracking.student_model",
            data_path=str(data),
            code_paths=[str(code)],
            signature=signature(folder),
            input_example=example(folder),
            pip_requirements=[f"{name}=={_version(name)}" for name in REQUIREMENTS],
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
