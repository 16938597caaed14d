"""The runtime_env of a job and ours."""

import json
import os

import pytest

from meanflow_tune.cluster.connection.job_environment import INJECTED, merged, with_job
from meanflow_tune.cluster.errors import ClusterError

OURS = {"py_modules": ["/ours"], "env_vars": {"A": "ours", "B": "ours"}}
FIXED = {"CLOSED": "yes"}


def test_a_jobs_own_are_kept() -> None:
    job = {
        "py_modules": ["gcs://theirs.zip"],
        "working_dir": "gcs://work.zip",
        "pip": ["x"],
        "env_vars": {"B": "theirs", "C": "theirs"},
    }
    assert merged(OURS, job, FIXED) == {
        "py_modules": ["/ours", "gcs://theirs.zip"],
        "working_dir": "gcs://work.zip",
        "pip": ["x"],
        "env_vars": {"A": "ours", "B": "theirs", "C": "theirs", "CLOSED": "yes"},
    }


def test_a_variable_that_a_search_needs_is_named() -> None:
    with pytest.raises(ClusterError, match="env_vars/CLOSED to 'no'") as caught:
        merged(OURS, {"env_vars": {"CLOSED": "no"}}, FIXED)
    assert "\n" not in str(caught.value)
    assert merged(OURS, {"env_vars": {"CLOSED": "yes"}}, FIXED)["env_vars"]["CLOSED"] == "yes"


def test_ray_merges_nothing_itself_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses a job that sets the same keys as `ray.init`."""
    from ray._private.worker import _merge_runtime_env

    job = {"py_modules": ["gcs://theirs.zip"], "env_vars": {"A": "theirs"}}
    text = json.dumps({"runtime_env": job, "metadata": {"job_submission_id": "raysubmit_1"}})
    monkeypatch.setenv(INJECTED, text)
    assert _merge_runtime_env(job, OURS) is None
    with with_job(OURS, FIXED) as made:
        injected = json.loads(os.environ[INJECTED])
        assert injected["metadata"] == {"job_submission_id": "raysubmit_1"}
        assert _merge_runtime_env(injected["runtime_env"], made) == made
        assert made["env_vars"]["A"] == "theirs"
    assert os.environ[INJECTED] == text


def test_without_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INJECTED, raising=False)
    with with_job(OURS, FIXED) as made:
        assert made == merged(OURS, {}, FIXED)
    assert INJECTED not in os.environ
