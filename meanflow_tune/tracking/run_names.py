"""How MLflow calls what a search calls otherwise: metrics, runs, times."""

import re
from collections.abc import Mapping
from typing import Any

PARAM_LENGTH = 6000


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Names and values as MLflow takes them."""
    return {mlflow_name(key): str(value)[:PARAM_LENGTH] for key, value in values.items()}


def mlflow_name(name: str) -> str:
    """`teacher_gap@1` is `teacher_gap/nfe_1`; any other character refused by MLflow is `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "/nfe_"))


def run_name(trial: str, baseline: str | None) -> str:
    """`trial 00007 backward`; the number is zero-padded, so that names sort."""
    *part, number = trial.split("/")
    words = [*(part or ["trial"]), f"{int(number):05d}", *([baseline] if baseline else [])]
    return " ".join(words)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
