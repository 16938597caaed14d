"""meanflow_tune: hyper-parameter search for second-order MeanFlow training on a Ray cluster.

`meanflow_tune.load_student(source)` gives a trained student; see `meanflow_tune.sampling`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meanflow_tune.sampling import load_student as load_student

__version__ = "0.1.0"
__all__ = ["__version__", "load_student"]


def __getattr__(name: str) -> Any:
    """`load_student` on first use: torch alone takes seconds to import."""
    if name == "load_student":
        from meanflow_tune.sampling import load_student

        return load_student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
