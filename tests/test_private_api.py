"""Which parts of other packages are used that have no public interface, and that their versions are bounded.

Any minor release may change such a part without a word: a new release is allowed in pyproject.toml, and
named in TESTED, after `make test-all` passed with it. Each new use is listed here with its reason, or left
out. What the derivative engine asks torch about compilation ends no search, and tests of the engine see it.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from meanflow_tune.cluster.doctor.host_facts import TESTED
from tests.support.paths import PACKAGE, ROOT

PRIVATE = re.compile(r"(?:ray|optuna|mlflow)(?:\.\w+)*\._[a-z]\w*")

# File: private module or argument: why.
REASONS = {
    "cluster/slots/capacity.py": {
        "ray._private.state": "the limits that an autoscaler publishes",
    },
    "cluster/slots/trainer.py": {
        "ray.train.v2._internal": "the controller of Ray Train in our process, in our placement group",
    },
    "cluster/tuner.py": {
        "_populate_exception": "Ray Tune unpickles errors from files that a full disk leaves torn",
        "__dict__": "the same, as it was",
    },
    "cluster/connection/local_ray.py": {
        "_temp_dir": "the folder of our own Ray, of mode 0700",
        "_node_ip_address": "our own Ray listens on the loopback interface only",
        "ray._private": "the same, and processes that SIGTERM to the group does not end",
    },
    "cluster/connection/command_line.py": {
        "ray._raylet": "the title of the process, in which Ray's own workers read the command line",
    },
    "cluster/connection/session.py": {
        "ray._raylet": "RAY_* variables and the token are read again after the import of Ray",
        "ray._private.worker": "messages of the raylet, kept off the terminal",
    },
    "cluster/connection/address.py": {
        "ray._private.tls_utils": "the certificates that Ray would use, to ask whether its head answers",
    },
    "search/samplers/tpe.py": {
        "optuna.samplers._tpe": "the cached estimators of TPE",
    },
    "search/samplers/modelled.py": {
        "optuna.samplers._tpe": "the order in which TPE takes trials for good ones",
    },
    "search/store/storage.py": {
        "optuna.storages.journal._storage": "which trials a new line of the journal changes",
    },
    "search/samplers/cmaes.py": {
        "optuna._transform": "the search space as CMA-ES of Optuna sees it",
    },
    "search/study/relocate.py": {
        "optuna.study._frozen": "studies written to another storage as they are",
    },
}


def _private_parts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                yield from _beginning(f"{node.module}.{name.name}")
        elif isinstance(node, ast.Import):
            for name in node.names:
                yield from _beginning(name.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if PRIVATE.fullmatch(node.value):
                yield from _beginning(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "ray.init":
            yield from (k.arg for k in node.keywords if k.arg and k.arg.startswith("_"))
        elif isinstance(node, ast.Attribute) and _is_private_part(node, of="ResultGrid"):
            yield node.attr


def _is_private_part(node: ast.Attribute, of: str) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == of and node.attr.startswith("_")


def _beginning(name: str) -> Iterator[str]:
    if PRIVATE.match(name):
        yield name


@cache
def _used() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if parts := set(_private_parts(path)):
            found[path.relative_to(PACKAGE).as_posix()] = parts
    return found


def test_each_private_part_that_is_used_is_listed_with_its_reason() -> None:
    used = _used()
    assert set(used) == set(REASONS)
    for file, parts in used.items():
        for part in parts:
            assert any(part.startswith(known) for known in REASONS[file]), f"{file}: {part}"
        for known in REASONS[file]:
            assert any(part.startswith(known) for part in parts), f"{file}: {known} is not used"


def test_packages_with_private_parts_are_those_with_a_tested_version() -> None:
    packages = {part.partition(".")[0] for parts in _used().values() for part in parts}
    assert {name for name in packages if not name.startswith("_")} == set(TESTED)


@pytest.mark.parametrize("package", sorted(TESTED))
def test_their_versions_are_bounded_at_the_tested_minor_release(package: str) -> None:
    """A new minor release is tried before it is allowed: see the top of this file."""
    major, minor = TESTED[package].split(".")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (bounds,) = (
        line.partition("]")[2] or line.removeprefix(package)
        for line in project["dependencies"]
        if re.match(rf"{package}\b(?!-)", line)
    )
    assert bounds == f">={major}.{minor},<{major}.{int(minor) + 1}"
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(rf"^{package}=={major}\.{minor}\.", constraints, re.MULTILINE)
