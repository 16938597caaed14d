"""On PYTHONPATH: a Python that has torch and what torch needs, and none of this project's other packages."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

ABSENT = frozenset(
    {
        *("ray", "optuna", "mlflow", "pydantic", "pydantic_core", "pandas", "einops", "pytest"),
        *("scipy", "sklearn", "torchmetrics", "matplotlib", "rich", "ot", "safetensors"),
        *("pyarrow", "grpc", "cmaes", "polars", "duckdb"),
    }
)


class _Bare(PathFinder):
    """Finds nothing of them, as where they are not installed: torch itself asks for some."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in ABSENT:
            return None
        return super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = _Bare
