"""Which of Optuna's studies is the current one of a search: NAME, or NAME@k of a later generation.

Derived from the storage alone: the highest k whose study says that it is complete. So a kill while a
generation is made changes nothing, whoever reads.
"""

import re
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

READY = "ready"  # user attribute of a complete generation above the first
IMPORTED_PARAMS = "imported_params"  # of a trial: parameters that do not fit its study's space

IMPORTED_REPORTS = "imported_reports"  # of a trial that was not trained in this search


def current_name(storage: BaseStorage, name: str) -> str:
    """The stored name of a search's current generation; `name` itself where there is just one."""
    return stored_name(name, current_generation(storage, name))


def stored_name(name: str, generation: int) -> str:
    """Optuna's name for a generation, counted from 1."""
    return name if generation == 1 else f"{name}@{generation}"


def current_generation(storage: BaseStorage, name: str) -> int:
    """The highest complete generation; 1 where there is no study of this name yet."""
    later = re.compile(rf"{re.escape(name)}@(\d+)")
    found = [
        int(match[1])
        for study in storage.get_all_studies()
        if (match := later.fullmatch(study.study_name)) and study.user_attrs.get(READY)
    ]
    return max(found, default=1)


def every_param(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters that a trial was trained with, whether its study has a place for them or not."""
    left_out: dict[str, Any] = trial.user_attrs.get(IMPORTED_PARAMS, {})
    return trial.params | left_out
