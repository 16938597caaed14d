"""Names and values in MLflow: each its own, in a form that MLflow takes, and none cut in silence."""

import itertools
from types import SimpleNamespace

import pytest

from meanflow_tune.tracking.run_names import (
    BATCH_BYTES,
    NAME_LENGTH,
    PARAM_LENGTH,
    batches,
    metric_values,
    mlflow_name,
    param_texts,
    tag_texts,
)

NAMES = (
    "a+b",
    "a*b",
    "a_b",
    "gap@1",
    "gap/nfe_1",
    "gap@",
    "../gap",
    "/gap",
    "gap",
    "gap/",
    "a//b",
    "a/b",
    "a/./b",
    "",
    ".",
    "..",
    "x" * 300 + "1",
    "x" * 300 + "2",
    "x" * 250,
    "größe",
)


def test_names_that_mlflow_takes_stay_and_the_nfe_is_a_group() -> None:
    same = ("optimizer.learning_rate", "param/loss/share", "x" * 250, "größe", "step_ms")
    assert [mlflow_name(name) for name in same] == list(same)
    assert mlflow_name("teacher_gap@1") == "teacher_gap/nfe_1"
    assert mlflow_name("best.teacher_gap@2.lower") == "best.teacher_gap/nfe_2.lower"


def test_no_two_names_become_one() -> None:
    for pair in itertools.combinations(NAMES, 2):
        values = metric_values({pair[0]: 1.0, pair[1]: 2.0})
        assert sorted(values.values()) == [1.0, 2.0], pair


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_mlflow_takes_every_name(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param, _validate_tag

    usable = mlflow_name(name)
    assert len(usable) <= NAME_LENGTH
    _validate_metric_name(usable)
    _validate_param(usable, "1")
    _validate_tag(usable, "1")


def test_what_is_cut_says_so_and_where_the_whole_is() -> None:
    long = "y" * 9000
    (param,) = param_texts({"a": long}).values()
    (tag,) = tag_texts({"a": long}).values()
    assert (len(param), len(tag)) == (PARAM_LENGTH, 8000)
    assert param.endswith("[cut: 9,000 characters, the whole is in config.json]")
    assert tag.endswith("[cut: 9,000 characters, the whole is in the study's folder]")
    assert param_texts({"a": "y" * PARAM_LENGTH}) == {"a": "y" * PARAM_LENGTH}


def test_requests_stay_below_mlflows_limits() -> None:
    """Characters outside ASCII take six bytes each, so a hundred long values are too much for one."""
    every = [SimpleNamespace(key=str(k), value="ü" * PARAM_LENGTH) for k in range(100)]
    parts = list(batches(every, 100))
    assert [entity for part in parts for entity in part] == every
    assert all(len(part) * PARAM_LENGTH * 6 <= BATCH_BYTES for part in parts)
    assert [len(part) for part in batches(every[:1] * 250, 100)][-1] <= 100
    assert list(batches([], 100)) == []
