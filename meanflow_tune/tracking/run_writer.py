"""What is written to one run of MLflow: parameters, metrics, tags, its end, pictures."""

import math
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.files import is_full
from meanflow_tune.tracking.replay import Rejected
from meanflow_tune.tracking.run_names import (
    METRICS_PER_BATCH,
    PARAMS_PER_BATCH,
    batches,
    metric_values,
    milliseconds,
    param_texts,
    tag_texts,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

THUMBNAIL = 256


class RunWriter:
    """client: for one call."""

    def __init__(self, client: Callable[[], "MlflowClient"]) -> None:
        self._client = client

    def params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        every = [Param(*item) for item in param_texts(params).items()]
        for part in batches(every, PARAMS_PER_BATCH):
            self._client().log_batch(run, params=part, synchronous=True)

    def metrics(self, run: str, values: Mapping[str, float], at: int, step: int = 0) -> list[str]:
        """Returns MLflow's names of those that are not finite, which are left out."""
        from mlflow.entities import Metric

        named = metric_values(values)
        finite = {name: value for name, value in named.items() if math.isfinite(value)}
        every = [Metric(name, value, at, step) for name, value in finite.items()]
        for part in batches(every, METRICS_PER_BATCH):
            self._client().log_batch(run, metrics=part, synchronous=True)
        return sorted(named.keys() - finite.keys())

    def tag(self, run: str, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        every = [RunTag(*item) for item in tag_texts(tags).items()]
        for part in batches(every, PARAMS_PER_BATCH):
            self._client().log_batch(run, tags=part, synchronous=True)

    def end(self, run: str, status: str, at: float) -> None:
        self._client().set_terminated(run, status, end_time=milliseconds(at))

    def picture(self, run: str, name: str, path: Path, step: int, at: int) -> None:
        """Like `MlflowClient.log_image`, under a name that stays the same in a replay."""
        from PIL import Image

        same = uuid.uuid5(uuid.NAMESPACE_OID, f"{run}/{name}/{step}/{at}")
        stem = f"{name.replace('/', '~')}+step+{step}+timestamp+{at}+{same}"
        with tempfile.TemporaryDirectory() as folder:
            try:
                with Image.open(path) as image:
                    image.save(Path(folder) / f"{stem}.png")
                    small = image.convert("RGB")
                    small.thumbnail((THUMBNAIL, THUMBNAIL))
                    small.save(Path(folder) / f"{stem}+compressed.webp")
            except Exception as error:
                if is_full(error):
                    raise
                # Trying again would hold up all events behind this one.
                raise Rejected(f"the picture {path} cannot be read: {error}") from error
            self._client().log_artifacts(run, folder, "images")
        self._client().set_tag(run, "mlflow.loggedImages", "True", synchronous=True)
