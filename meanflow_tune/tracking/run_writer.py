"""What is written to one run of MLflow: parameters, metrics, tags, its end, pictures."""

import math
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.files import is_full
from meanflow_tune.tracking.replay import Rejected
from meanflow_tune.tracking.run_names import milliseconds, mlflow_name, texts

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARAMS_PER_BATCH = 100
THUMBNAIL = 256


class RunWriter:
    """client: for one call."""

    def __init__(self, client: Callable[[], "MlflowClient"]) -> None:
        self._client = client

    def params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        # config.json holds the whole of a value that is cut here.
        every = [Param(*item) for item in texts(params).items()]
        for i in range(0, len(every), PARAMS_PER_BATCH):
            self._client().log_batch(run, params=every[i : i + PARAMS_PER_BATCH], synchronous=True)

    def metrics(self, run: str, values: Mapping[str, float], at: int) -> None:
        from mlflow.entities import Metric

        finite = {mlflow_name(name): x for name, x in values.items() if math.isfinite(x)}
        metrics = [Metric(name, value, at, 0) for name, value in finite.items()]
        if metrics:
            self._client().log_batch(run, metrics=metrics, synchronous=True)

    def tag(self, run: str, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        every = [RunTag(*item) for item in texts(tags).items()]
        self._client().log_batch(run, tags=every, synchronous=True)

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
