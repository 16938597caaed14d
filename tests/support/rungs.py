"""Settings of a search that tests mean where they say nothing else."""

from typing import Any

from meanflow_tune.search.pruning.rules import Rungs

PLAIN: dict[str, Any] = {
    "kind": "asha",
    "reduction": 3.0,
    "grace": 0,
    "brackets": 1,
    "promotion": True,
    "protect": 0.0,
}


# Of a ledger.
LEDGER: dict[str, Any] = {
    "epoch": 0,
    "startup_trials": 10,
    "repeats": 0,
    "max_failures": 3,
    "terms": 0,
}


def make_rungs(**changes: Any) -> Rungs:
    return Rungs(**(PLAIN | changes))
