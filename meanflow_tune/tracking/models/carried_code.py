"""The entry point of a logged model, which carries this file and the package as one zip next to it."""

import sys
from pathlib import Path
from typing import Any

PACKAGE = "meanflow_tune.zip"


def _load_pyfunc(path: str) -> Any:
    """MLflow's entry point; path: of the export. A package that is imported already is used."""
    if "meanflow_tune" not in sys.modules:
        sys.path.insert(0, str(Path(__file__).with_name(PACKAGE)))
    from meanflow_tune.tracking.student_model import load_student

    return load_student(Path(path))
