"""The layers of the architecture, read from the syntax trees: imports point one way, without circles."""

import ast
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import PACKAGE, ROOT

FAMILIES = {
    "losses",
    "weightings",
    "time_samplers",
    "ds_schedules",
    "models",
    "data",
    "metrics",
}
FILES_OF = {"arrays", "checksums", "curves", "files", "formats"}
BASE = {"records", "settings", "this_machine", "urls", *FILES_OF}
CONFIG = {"core", "core.jets", "config", *FAMILIES, *BASE}
TRAINING = {"objective", "training", "student_files", *CONFIG}
STORE = {"search", "search.store", *BASE}
SEARCH = {"search.space", "search.samplers", "search.pruning", *STORE}
STUDY = {"search.study", "search.analysis", *SEARCH}
PLAN = {"plan", *STUDY, *TRAINING}

# What each part of the package may import from it, besides itself.
ALLOWED: dict[str, set[str]] = {
    "settings": set(),
    "records": set(),
    "files": set(),
    "formats": set(),
    "this_machine": set(),
    "arrays": {"checksums", "files"},
    "checksums": {"files"},
    "urls": set(),
    "curves": {"files"},
    "student_files": {"checksums", "files", "formats"},
    "core": {"core.jets"},
    "core.jets": {"core"},
    **{family: {"core", "core.jets", "settings"} for family in FAMILIES},
    "config": CONFIG,
    "objective": CONFIG,
    "training": TRAINING,
    "search": BASE,
    "search.store": STORE,
    "search.space": {*STORE, *CONFIG},  # a space is made of configurations
    "search.samplers": STORE,
    "search.pruning": STORE,
    "search.study": SEARCH,
    "search.analysis": SEARCH,
    "tracking": {"student_files", *CONFIG},
    "sampling": {"remote", "tracking", *TRAINING},
    "remote": {*STORE, *TRAINING},
    "cluster": {"training", *BASE},
    "plan": {*STUDY, *TRAINING},
    "results": {"remote", *PLAN},
    "report": {"cluster", "remote", "results", "sampling", *PLAN},
    # The only one above all others.
    "driver": {"cluster", "remote", "report", "results", "sampling", "tracking", *PLAN},
}
# Libraries that only one part may import.
OWNED = {"ray": "cluster", "mlflow": "tracking", "optuna": "search"}
# Folders of tests that mirror no part of the package.
OTHER_TESTS = {
    "core/networks_of_others",
    "benchmarks",
    "browser",
    "contracts",
    "deploy",
    "docs",
    "end_to_end",
    "hosts",
    "security",
    "support",
}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def part_of(module: str) -> str:
    """The longest name in ALLOWED that the module is in or below."""
    inner = module.removeprefix("meanflow_tune").removeprefix(".")
    while inner and inner not in ALLOWED:
        inner = inner.rpartition(".")[0]
    return inner


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules that a file imports anywhere in it, also for type checking only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = names & MODULES.keys()
            found |= modules
            if len(modules) < len(names):
                found.add(node.module)
    return frozenset(found)


def ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(module_of(path))
    if path == PACKAGE / "__init__.py":
        return
    assert part, f"{path} is in no layer; name its part in ALLOWED"
    used = {part_of(m) for m in imports(path) if m in MODULES and m != "meanflow_tune"} - {part}
    assert used <= ALLOWED[part], f"{part} must not import {used - ALLOWED[part]}"


def test_there_is_no_circle_of_imports() -> None:
    files = [*FILES, *(ROOT / "benchmarks").rglob("*.py")]
    graph = {module_of(path): imports(path) for path in files}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_owned_libraries_stay_where_they_belong(path: Path) -> None:
    for module in imports(path):
        owner = OWNED.get(module.partition(".")[0])
        part = part_of(module_of(path)).partition(".")[0]
        assert owner in (None, part), f"{path} imports {module}"


def test_core_needs_torch_only() -> None:
    for path in (PACKAGE / "core").rglob("*.py"):
        roots = {module.partition(".")[0] for module in imports(path)}
        assert roots <= {"torch", "meanflow_tune", *sys.stdlib_module_names}, path
        assert not roots & {"time", "os", "pathlib", "random"}, f"{path}: clocks or files in core"


def test_derivatives_need_only_the_types_of_core() -> None:
    for path in (PACKAGE / "core" / "jets").rglob("*.py"):
        used = {module for module in imports(path) if part_of(module) == "core"}
        assert used <= {"meanflow_tune.core.types"}, path


def test_a_part_is_one_of_several_files_or_has_a_face() -> None:
    """A misspelt name in ALLOWED would make the tests above pass on nothing."""
    assert {part_of(module) for module in MODULES} - {""} == set(ALLOWED)


def test_search_spaces_import_config_families_and_the_trial_type_only() -> None:
    allowed = {"config", "settings", *FAMILIES}
    for path in (ROOT / "search_spaces").glob("*.py"):
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "meanflow_tune":
                assert parts[1] in allowed, f"{path.name} imports {module}"
            else:
                assert parts[0] in {
                    "optuna",
                    "math",
                    "collections",
                    "dataclasses",
                    "typing",
                    "search_spaces",
                }


def test_scripts_parse_call_and_print() -> None:
    for path in (ROOT / "scripts").glob("*.py"):
        assert len(path.read_text().splitlines()) < 150, f"{path.name} is not thin"


def test_files_and_folders_are_of_a_readable_size() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, f"{path} is too long; split it"
    for folder in {path.parent for path in [*FILES, *(ROOT / "tests").rglob("*.py")]}:
        count = len(list(folder.glob("*.py")))
        assert count <= 20, (
            f"{folder} has {count} files; make folders of those that belong together"
        )


def test_no_two_modules_have_one_name() -> None:
    """A name says one thing. Faces, `base` and `errors` are the same everywhere, and mean the same."""
    seen: dict[str, str] = {}
    for module, path in MODULES.items():
        name = path.stem
        if name in ("__init__", "base", "errors"):
            continue
        assert name not in seen, f"{module} and {seen[name]}"
        seen[name] = module


def test_tests_mirror_the_package() -> None:
    """A folder of tests is that of a package, and no test imports another test module."""
    tests = ROOT / "tests"
    for path in tests.rglob("*.py"):
        inner = path.relative_to(tests)
        others = {inner.parts[0], str(inner.parent)} & OTHER_TESTS
        if len(inner.parts) > 1 and not others:
            folder = PACKAGE / inner.parent
            assert folder.is_dir(), f"{inner} mirrors no folder of the package"
        for module in imports(path):
            last = module.rpartition(".")[2]
            assert not (module.startswith("tests.") and last.startswith("test_")), (
                f"{inner} imports {module}; move what they share to tests/support"
            )
