"""How MLflow calls what a search calls otherwise: each thing has its own name, and nothing is cut in silence.

MLflow refuses a whole batch for one name or value that it does not take, so everything is brought into
form before it is sent. A long value of a parameter is whole in the run's config.json.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

NAME_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
BATCH_BYTES = 900_000  # MLflow refuses a request of a million
_MARK = 6  # digits that tell apart names that would be equal

T = TypeVar("T")


def mlflow_name(name: str) -> str:
    """`teacher_gap@1` is `teacher_gap/nfe_1`; another name that MLflow refuses gets a mark of its own.

    Characters that it does not take become `_`, a long name is cut, and six digits made from the whole name
    follow, so that two names never become one: `a+b` and `a*b`.
    """
    plain = re.sub(r"@(?=\w)", "/nfe_", name)
    # MLflow takes a name as a path, too, which has to be the shortest one to its place.
    usable = posixpath.normpath("/" + re.sub(r"[^\w\-. :/]", "_", plain)).strip("/") or "_"
    if usable == plain and len(usable) <= NAME_LENGTH:
        return usable
    mark = hashlib.sha256(name.encode()).hexdigest()[:_MARK]
    return f"{usable[: NAME_LENGTH - _MARK - 1].rstrip('/')}_{mark}"


def names(given: Iterable[str]) -> dict[str, str]:
    """The name in MLflow of each name; where two would be equal, the one that was changed is marked."""
    known = dict.fromkeys(given)
    found: dict[str, str] = {}
    for name in known:
        usable = mlflow_name(name)
        if usable != name and usable in known:  # `gap@1` next to `gap/nfe_1`
            usable = mlflow_name(f"{usable}@")
        found[name] = usable
    return found


def param_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as MLflow takes them."""
    return _texts(values, PARAM_LENGTH, "the whole is in config.json")


def tag_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Tags as MLflow takes them."""
    return _texts(values, TAG_LENGTH, "the whole is in the study's folder")


def _texts(values: Mapping[str, Any], length: int, where: str) -> dict[str, str]:
    usable = names(values)
    return {usable[name]: shorten(str(value), length, where) for name, value in values.items()}


def shorten(text: str, length: int, where: str) -> str:
    """Text of at most `length` characters, which says when it was cut, and where the whole is."""
    if len(text) <= length:
        return text
    note = f" … [cut: {len(text):,} characters, {where}]"
    return text[: length - len(note)] + note


def metric_values(values: Mapping[str, float]) -> dict[str, float]:
    """Metrics under MLflow's names, those that are not finite included."""
    usable = names(values)
    return {usable[name]: value for name, value in values.items()}


def batches(entities: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Parts of at most `most` entities (with key and value) and of a size that a request may have."""
    part: list[T] = []
    size = 0
    for entity in entities:
        bytes_ = len(json.dumps(vars(entity), default=str))
        if part and (len(part) == most or size + bytes_ > BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(entity)
        size += bytes_
    if part:
        yield part


def model_name(study: str, trial: str) -> str:
    """`second_order-trial-00029`; MLflow refuses dots in it, so those of a study become `_`."""
    *part, number = trial.split("/")
    return "-".join([re.sub(r"[^\w\-]", "_", study), *(part or ["trial"]), f"{int(number):05d}"])


def run_name(trial: str, baseline: str | None) -> str:
    """`trial 00007 backward`; the number is zero-padded, so that names sort."""
    *part, number = trial.split("/")
    words = [*(part or ["trial"]), f"{int(number):05d}", *([baseline] if baseline else [])]
    return " ".join(words)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
