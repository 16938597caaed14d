"""What is written to one run of MLflow: parameters, metrics, tags, its end, pictures."""

import math
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanflow_tune.curves import CurvePoint
from meanflow_tune.files import is_full
from meanflow_tune.tracking.replay import Rejected
from meanflow_tune.tracking.run_names import (
    METRICS_PER_BATCH,
    PARAMS_PER_BATCH,
    batches,
    metric_values,
    milliseconds,
    mlflow_name,
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

    def end(self, run: str, status: str, at: float, seconds: float | None = None) -> None:
        """The run ended at `at`; with `seconds`, after so much time, whenever that was."""
        end = milliseconds(at)
        if seconds is not None:
            end = self._client().get_run(run).info.start_time + milliseconds(seconds)
        self._client().set_terminated(run, status, end_time=end)

    def curve(self, run: str, points: Sequence[CurvePoint]) -> None:
        """`train/...` and `system/...`, each at its own step and time."""
        from mlflow.entities import Metric

        every = []
        for point in points:
            values = {
                "train/loss": point.loss,
                "train/learning_rate": point.learning_rate,
                "train/step_ms": point.step_ms,
                **{f"system/{name}": value for name, value in point.system.items()},
            }
            at, step = milliseconds(point.time), point.images
            every += [Metric(n, x, at, step) for n, x in values.items() if math.isfinite(x)]
        for part in batches(every, METRICS_PER_BATCH):
            self._client().log_batch(run, metrics=part, synchronous=True)

    def model_metrics(
        self,
        run: str,
        model: str,
        values: Mapping[str, float],
        at: int,
        step: int,
        datasets: Sequence[Mapping[str, Any]],
    ) -> None:
        """The metrics of a run at a step, once more as those of its model; datasets: one or none."""
        from mlflow.entities import Metric

        named = {name: x for name, x in metric_values(values).items() if math.isfinite(x)}
        data = next(iter(datasets), None)
        of = (data["name"], data["digest"]) if data is not None else (None, None)
        every = [Metric(name, x, at, step, model, *of, run) for name, x in named.items()]
        for part in batches(every, METRICS_PER_BATCH):
            self._client().log_batch(run, metrics=part, synchronous=True)

    def settings(self, run: str, params: Mapping[str, Any]) -> None:
        """Parameters that may change, which MLflow's never do: the first value stays one, a later one
        becomes the tag `changed/NAME`."""
        wanted = param_texts(params)
        known = self._client().get_run(run).data
        self.params(run, {name: x for name, x in params.items() if _missing(name, x, known.params)})
        for name, value in wanted.items():
            tag, first = mlflow_name(f"changed/{name}"), known.params.get(name, value)
            if value != first:
                self.tag(run, {tag: f"{first} -> {value}"})
            elif tag in known.tags:
                self._client().delete_tag(run, tag)

    def datasets(self, run: str, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Inputs of the run: those that it has already are not doubled."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    each["name"],
                    each["digest"],
                    each["source_type"],
                    each["source"],
                    profile=each.get("profile"),
                ),
                [InputTag("mlflow.data.context", each["context"])],
            )
            for each in datasets
        ]
        if inputs:
            self._client().log_inputs(run, inputs)

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


def _missing(name: str, value: Any, known: Mapping[str, str]) -> bool:
    return not param_texts({name: value}).keys() <= known.keys()
