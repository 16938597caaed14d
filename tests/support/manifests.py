"""A manifest without a study."""

from typing import Any

from meanflow_tune.search.store.manifest import Manifest, environment

TERMS: dict[str, Any] = {
    "study": "digits",
    "space": "second_order",
    "space_hash": "a" * 64,
    "goal": "settle it",
    "objective": "gap@1",
    "overrides": ("budget.images=100",),
    "sampler": "tpe",
    "seed": 3,
    "rungs": "none",
    "data_fingerprint": "f00",
}


def manifest(**changes: Any) -> Manifest:
    return Manifest(**(TERMS | environment() | changes))
