"""The layers of the architecture, read from the syntax trees: imports point one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "meanflow_tune"
FAMILIES = (
    "losses",
    "weightings",
    "time_samplers",
    "ds_schedules",
    "models",
    "data",
    "metrics",
)
TOP = {
    "calibration",
    "cli",
    "confirm",
    "driver",
    "findings",
    "plan",
    "plan_forecast",
    "plan_plots",
    "planner",
    "progress",
    "report_files",
    "report_tables",
    "request",
    "sketches",
    "stage",
    "status",
    "summary",
    "terms",
    "view",
}

# What a part may import from the package, beside itself.
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "settings": set(),
    "records": set(),
    "files": set(),
    "export": {"files"},
    **{family: {"core", "settings"} for family in FAMILIES},
    "sources": {"settings", "losses"},
    "overrides": set(),
    "config": {"core", "settings", "sources", "overrides", *FAMILIES},
    "ingredients": {"core", "settings", "config", *FAMILIES},
    "objective": {"core", "settings", "config", "ingredients", *FAMILIES},
    "training": {
        "core",
        "settings",
        "records",
        "files",
        "export",
        "config",
        "objective",
        *FAMILIES,
    },
    "cluster": {"core", "settings", "records", "config", "objective", "training"},
    "search": {"core", "settings", "records", "files", "config"},
    "tracking": {"core", "settings", "records", "files", "export", "config"},
    "results": {"core", "settings", "records", "files", "config"},
    # (a search as its driver runs it)
    "benchmarks": {
        "core",
        "records",
        "files",
        "config",
        "models",
        "data",
        "losses",
        "metrics",
        "time_samplers",
        "training",
        "cluster",
        "search",
        *TOP,
    },
}
# Libraries that only one part may import.
# (benchmarks measure them as they come, beside ours)
OWNED = {
    "ray": {"cluster", "benchmarks"},
    "mlflow": {"tracking"},
    "optuna": {"search", "benchmarks"},
}


def part_of(path: Path) -> str:
    inner = path.relative_to(PACKAGE)
    return inner.parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
            if node.module == "meanflow_tune":
                found |= {f"meanflow_tune.{alias.name}" for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part in TOP or part == "__init__":
        return
    assert part in ALLOWED, f"{part} is in no layer; name it in ALLOWED"
    used = {m.split(".")[1] for m in imports(path) if m.startswith("meanflow_tune.")} - {part}
    assert used <= ALLOWED[part] | {"__version__"}, f"{part} must not import {used - ALLOWED[part]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_owned_libraries_stay_where_they_belong(path: Path) -> None:
    for module in imports(path):
        owners = OWNED.get(module.split(".")[0])
        assert owners is None or part_of(path) in owners, f"{path.name} imports {module}"


def test_core_needs_torch_only() -> None:
    third_party = {"torch", "meanflow_tune"}
    standard = set(__import__("sys").stdlib_module_names)
    for path in (PACKAGE / "core").glob("*.py"):
        roots = {module.split(".")[0] for module in imports(path)}
        assert roots <= third_party | standard, path
        assert not roots & {"time", "os", "pathlib", "random"}, (
            f"{path}: no clocks or files in core"
        )


def test_search_spaces_import_config_families_and_the_trial_type_only() -> None:
    allowed = {"config", "settings", *FAMILIES}
    for path in (ROOT / "search_spaces").glob("*.py"):
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "meanflow_tune":
                assert parts[1] in allowed, f"{path.name} imports {module}"
            else:
                assert parts[0] in {"optuna", "math", "collections", "typing", "search_spaces"}, (
                    module
                )


def test_scripts_parse_call_and_print() -> None:
    for path in (ROOT / "scripts").glob("*.py"):
        assert len(path.read_text().splitlines()) < 150, f"{path.name} is not thin"


def test_package_data_is_whole() -> None:
    """A misspelt folder name here would make the tests above pass on nothing."""
    assert {part_of(path) for path in FILES} >= set(ALLOWED)
