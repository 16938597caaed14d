"""The runtime_env of a search's workers, merged with that of a job (`ray job submit --runtime-env`)."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from meanflow_tune.cluster.errors import ClusterError

INJECTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the entry point of a job


def merged(
    ours: Mapping[str, Any], job: Mapping[str, Any], fixed: Mapping[str, str]
) -> dict[str, Any]:
    """The runtime_env with which Ray starts workers.

    A job's variable replaces ours, except for `fixed` ones. Raises ClusterError that names the variable.
    """
    theirs = dict(job.get("env_vars") or {})
    for name, value in fixed.items():
        if theirs.get(name, value) != value:
            raise ClusterError(
                f"the job's runtime_env sets env_vars/{name} to {theirs[name]!r}, but a search needs "
                f"{value!r}; leave it out of the runtime_env."
            )
    modules = [*ours.get("py_modules", ()), *(job.get("py_modules") or ())]
    variables = {**ours.get("env_vars", {}), **theirs, **fixed}
    return {**job, **ours, "py_modules": modules, "env_vars": variables}


@contextmanager
def with_job(ours: Mapping[str, Any], fixed: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What `ray.init` is given meanwhile: Ray itself refuses a job that sets the same keys."""
    text = os.environ.get(INJECTED)
    if text is None:
        yield merged(ours, {}, fixed)
        return
    injected = json.loads(text)
    made = merged(ours, injected.get("runtime_env") or {}, fixed)
    os.environ[INJECTED] = json.dumps({**injected, "runtime_env": {}})
    try:
        yield made
    finally:
        os.environ[INJECTED] = text
