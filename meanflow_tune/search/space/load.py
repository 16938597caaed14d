"""Loading a search space: a module with GOAL, OBJECTIVE, BASELINES and suggest(trial)."""

import ast
import hashlib
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from optuna.trial import FixedTrial

import meanflow_tune
from meanflow_tune.config import Question, TrialConfig
from meanflow_tune.search.errors import SpaceError, one_line
from meanflow_tune.search.objectives import SearchObjective
from meanflow_tune.search.space.draws import Suggest, name_errors

PACKAGE = "search_spaces"
REQUIRED = ("GOAL", "OBJECTIVE", "BASELINES", "suggest")


@dataclass(frozen=True)
class Space:
    """A loaded search space.

    suggest: returns the configuration of an Optuna trial; goal: the question of the study, one
    sentence; baselines: name -> all parameters, in the order in which they run; source_hash: of the
    file and of those that it imports from its folder or from search_spaces, which shows a study that
    its space changed; reference: baselines, the best of which proposed trials are compared with (the
    module's REFERENCE, else all); families: name -> baselines that differ in their learning rate only,
    the best of which represents all (the module's FAMILIES; any other baseline is its own family);
    sources: name of a family -> where it was published, one sentence (the module's SOURCES); question: a
    factor whose pairs the confirmation trains (the module's QUESTION); ramps_end: configuration -> the
    progress before which early stopping spares a trial (the module's RAMPS_END).
    """

    name: str
    suggest: Suggest
    goal: str
    objective: SearchObjective
    baselines: dict[str, dict[str, Any]]
    source_hash: str
    reference: tuple[str, ...]
    families: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    question: Question | None = None
    ramps_end: Callable[[TrialConfig], float] | None = None


def load_space(name_or_path: str | Path) -> Space:
    """Load search_spaces/NAME.py, or the file at a path that ends in .py, and check it.

    Raises:
        SpaceError: it is unknown, does not load, lacks a part, or has a baseline that does not fix
            exactly the parameters that suggest asks for.
    """
    text = str(name_or_path)
    if text.endswith(".py"):
        path, name = Path(text).absolute(), Path(text).stem
        if not path.is_file():
            raise SpaceError(f"there is no search space at {path}")
    else:
        name, path = text, spaces_folder() / f"{text}.py"
        if text not in known_spaces():
            known = ", ".join(known_spaces()) or "none"
            raise SpaceError(
                f"search space {text!r} is unknown; known: {known}; or give a .py file"
            )
    module = _load_module(name, path)
    missing = [part for part in REQUIRED if not hasattr(module, part)]
    if missing:
        raise SpaceError(f"search space {path} lacks {', '.join(missing)}")
    families = _families(module, path)
    space = Space(
        name=name,
        suggest=module.suggest,
        goal=_goal(module.GOAL, path),
        objective=_objective(module.OBJECTIVE, path),
        baselines=_baselines(module.BASELINES, path),
        source_hash=_source_hash(path),
        reference=_reference(module, path),
        families=families,
        sources=_sources(module, path, families),
        question=_question(module, path, families),
        ramps_end=_ramps_end(module, path),
    )
    for baseline, params in space.baselines.items():
        check_baseline(space.suggest, baseline, params)
    return space


def spaces_folder() -> Path:
    """The folder of the search spaces that come with this project."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(meanflow_tune.__file__).resolve().parents[1] / PACKAGE


def known_spaces() -> list[str]:
    """Names that `load_space` takes."""
    return sorted(p.stem for p in spaces_folder().glob("*.py") if not p.stem.startswith("_"))


def check_baseline(suggest: Suggest, name: str, params: Mapping[str, Any]) -> None:
    """Raise SpaceError unless a baseline fixes exactly the parameters that suggest asks for, in range."""
    trial = FixedTrial(dict(params))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            suggest(name_errors(trial))
        except Exception as error:  # whatever code of a space may raise
            raise SpaceError(f"baseline {name!r}: {one_line(error)}") from error
    extra = sorted(set(params) - set(trial.params))
    if extra:
        raise SpaceError(
            f"baseline {name!r} fixes {', '.join(extra)}, which suggest does not ask for"
        )
    for warning in caught:
        if re.search(r"out of\s+the range", str(warning.message)):
            raise SpaceError(f"baseline {name!r}: {one_line(Warning(warning.message))}")


def _load_module(name: str, path: Path) -> ModuleType:
    module_name = f"{PACKAGE}.{name}" if path.parent == spaces_folder() else f"_space_{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(module_name)
    # Dataclasses and pydantic look their module up while it loads.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever code of a space may raise
        if before is None:
            del sys.modules[module_name]
        else:
            sys.modules[module_name] = before
        raise SpaceError(
            f"search space {path}: {type(error).__name__}: {one_line(error)}"
        ) from error
    return module


def _source_hash(path: Path) -> str:
    """Of the file, and of all files of its folder and of search_spaces that it imports, at any depth."""
    found: dict[Path, bytes] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found[file] = file.read_bytes()
            waiting += _imported_files(file, path.parent)
    digest = hashlib.sha256(found.pop(path))
    for file in sorted(found):
        digest.update(f"\0{file.name}\0{len(found[file])}\0".encode() + found[file])
    return digest.hexdigest()


def _imported_files(path: Path, folder: Path) -> set[Path]:
    """Files of `folder` and of search_spaces that a file imports, wherever in it the import stands."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= _files_of(alias.name, folder)
        elif isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if node.level else folder
            for alias in node.names:
                name = f"{node.module}.{alias.name}" if node.module else alias.name
                found |= _files_of(name, start, relative=node.level > 0)
    return {file for file in found if file.is_relative_to(folder) or file.parent == spaces_folder()}


def _files_of(name: str, folder: Path, relative: bool = False) -> set[Path]:
    """The files that an import of the dotted `name` may run, with `folder` as one place to find it."""
    parts = name.split(".")
    places = [(folder, parts)]
    if not relative:
        if parts[0] == meanflow_tune.__name__:  # the code of this project is no part of a space
            return set()
        if parts[0] == PACKAGE:
            places.append((spaces_folder(), parts[1:]))
        if parts[0] == folder.name:  # where the folder above is one to import from
            places.append((folder, parts[1:]))
    found: set[Path] = set()
    for place, rest in places:
        for depth in range(1, len(rest) + 1):
            inner = place.joinpath(*rest[:depth])
            found |= {Path(f"{inner}.py"), inner / "__init__.py"}
    return {file for file in found if file.is_file()}


def _goal(goal: object, path: Path) -> str:
    if not isinstance(goal, str) or not goal.strip():
        raise SpaceError(
            f"GOAL of search space {path} must state the question of the study in a sentence"
        )
    return goal


def _objective(objective: object, path: Path) -> SearchObjective:
    if isinstance(objective, SearchObjective):
        return objective
    if not isinstance(objective, str):
        raise SpaceError(f"OBJECTIVE of search space {path} must be text or a SearchObjective")
    try:
        return SearchObjective.parse(objective)
    except ValueError as error:
        raise SpaceError(f"OBJECTIVE of search space {path}: {error}") from error


def _baselines(baselines: object, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(baselines, Mapping):
        raise SpaceError(f"BASELINES of search space {path} must map names to parameters")
    try:
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(baselines))
    except TypeError as error:
        raise SpaceError(f"BASELINES of search space {path} must be JSON data: {error}") from error
    return plain


def _reference(module: ModuleType, path: Path) -> tuple[str, ...]:
    reference = tuple(getattr(module, "REFERENCE", module.BASELINES))
    unknown = [name for name in reference if name not in module.BASELINES]
    if unknown:
        raise SpaceError(
            f"REFERENCE of search space {path} names {unknown}, which are no BASELINES"
        )
    return reference


def _families(module: ModuleType, path: Path) -> dict[str, tuple[str, ...]]:
    default = {"reference": module.REFERENCE} if hasattr(module, "REFERENCE") else {}
    given = getattr(module, "FAMILIES", default)
    if not isinstance(given, Mapping):
        raise SpaceError(f"FAMILIES of search space {path} must map names to names of BASELINES")
    families = {str(name): tuple(members) for name, members in given.items()}
    named = [member for members in families.values() for member in members]
    unknown = [name for name in named if name not in module.BASELINES]
    twice = sorted({name for name in named if named.count(name) > 1})
    if unknown or twice:
        raise SpaceError(
            f"FAMILIES of search space {path}: {', '.join(unknown or twice)} "
            f"{'is no BASELINE' if unknown else 'is in two families'}"
        )
    alone = {name: (name,) for name in module.BASELINES if name not in named}
    if clash := [name for name in alone if name in families]:
        raise SpaceError(
            f"FAMILIES of search space {path}: {', '.join(clash)} is also the name of a baseline that "
            "is in no family"
        )
    return families | alone


def _sources(
    module: ModuleType, path: Path, families: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    given = getattr(module, "SOURCES", {})
    if not isinstance(given, Mapping) or not all(isinstance(text, str) for text in given.values()):
        raise SpaceError(f"SOURCES of search space {path} must map names of families to text")
    if unknown := [str(name) for name in given if name not in families]:
        raise SpaceError(f"SOURCES of search space {path} names {unknown}, which are no families")
    return {str(name): text for name, text in given.items()}


def _question(
    module: ModuleType, path: Path, families: Mapping[str, tuple[str, ...]]
) -> Question | None:
    question = getattr(module, "QUESTION", None)
    if question is None:
        return None
    if not isinstance(question, Question):
        raise SpaceError(f"QUESTION of search space {path} must be a meanflow_tune.config.Question")
    texts = question.text, question.factor
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise SpaceError(f"QUESTION of search space {path} needs a text and the name of a factor")
    if not (callable(question.without) and callable(question.including)):
        raise SpaceError(
            f"QUESTION of search space {path}: without and including must be functions of a TrialConfig"
        )
    if not isinstance(question.families, Mapping):
        raise SpaceError(f"QUESTION of search space {path}: families must map names to names")
    pairs = question.families.items()
    if unknown := [name for pair in pairs for name in pair if name not in families]:
        raise SpaceError(f"QUESTION of search space {path} names {unknown}, which are no families")
    return question


def _ramps_end(module: ModuleType, path: Path) -> Callable[[TrialConfig], float] | None:
    rule = getattr(module, "RAMPS_END", None)
    if rule is not None and not callable(rule):
        raise SpaceError(f"RAMPS_END of search space {path} must be a function of a TrialConfig")
    return rule
