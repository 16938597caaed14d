"""Loading a search space: a module with GOAL, OBJECTIVE, BASELINES and suggest(trial)."""

import functools
import hashlib
import re
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial

from meanflow_tune.config import Question, TrialConfig
from meanflow_tune.search.errors import SpaceError, fault_text, one_line
from meanflow_tune.search.objectives import SearchObjective
from meanflow_tune.search.space import declarations as declared
from meanflow_tune.search.space.checked_trial import checked
from meanflow_tune.search.space.draws import AnyTrial, Suggest
from meanflow_tune.search.space.modules import LoadedSpace, load_module, spaces_folder

REQUIRED = ("GOAL", "OBJECTIVE", "BASELINES", "suggest")


@dataclass(frozen=True)
class Space:
    """A loaded search space.

    suggest: returns the configuration of an Optuna trial; goal: the question of the study, one
    sentence; baselines: name -> all parameters, in the order in which they run; source_hash: of the
    file and of those that it imports, but for installed ones, which shows a study that its space
    changed; files: name -> hash of each; earlier_hashes: what earlier versions would have stored as
    source_hash; modules: its files by their place in a folder to import from, for workers; reference:
    baselines, the best of which proposed trials are compared with (the module's REFERENCE, else all);
    families: name -> baselines that differ in their learning rate only, the best of which represents
    all (the module's FAMILIES; any other baseline is its own family); sources: name of a family ->
    where it was published, one sentence (the module's SOURCES); question: a factor whose pairs the
    confirmation trains (the module's QUESTION); ramps_end: configuration -> the progress before which
    early stopping spares a trial (the module's RAMPS_END).
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
    files: dict[str, str] = field(default_factory=dict)
    earlier_hashes: tuple[str, ...] = ()
    modules: Mapping[str, Path] = field(default_factory=dict)


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
    loaded = load_module(path, spaces_folder())
    module = loaded.module
    missing = [part for part in REQUIRED if not hasattr(module, part)]
    if missing:
        raise SpaceError(f"search space {path} lacks {', '.join(missing)}")
    if not callable(module.suggest):
        raise SpaceError(f"suggest of search space {path} must be a function of an Optuna trial")
    baselines = declared.baselines(module.BASELINES, path)
    families = declared.families(module, path)
    space = Space(
        name=name,
        suggest=_checked(module.suggest),
        goal=declared.goal(module.GOAL, path),
        objective=declared.objective(module.OBJECTIVE, path),
        baselines=baselines,
        source_hash=_source_hash(path, loaded),
        reference=declared.reference(module, path),
        families=families,
        sources=declared.sources(module, path, families),
        question=declared.question(module, path, families),
        ramps_end=declared.ramps_end(module, path),
        files=_hashes(path, loaded),
        earlier_hashes=_earlier_hashes(path, loaded),
        modules=loaded.files,
    )
    for baseline, params in space.baselines.items():
        check_baseline(space.suggest, baseline, params)
    return space


def known_spaces() -> list[str]:
    """Names that `load_space` takes."""
    return sorted(p.stem for p in spaces_folder().glob("*.py") if not p.stem.startswith("_"))


def check_baseline(suggest: Suggest, name: str, params: Mapping[str, Any]) -> None:
    """Raise SpaceError unless a baseline fixes exactly the parameters that suggest asks for, in range."""
    trial = FixedTrial(dict(params))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _refuse_unfinished(suggest(checked(trial)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever code of a space may raise, also SystemExit
            raise SpaceError(f"baseline {name!r}: {fault_text(error)}") from error
    extra = sorted(set(params) - set(trial.params))
    if extra:
        raise SpaceError(
            f"baseline {name!r} fixes {', '.join(extra)}, which suggest does not ask for"
        )
    for warning in caught:
        if re.search(r"out of\s+the range", str(warning.message)):
            raise SpaceError(f"baseline {name!r}: {one_line(Warning(warning.message))}")


def _refuse_unfinished(found: object) -> None:
    """A function with `yield` or `async` has drawn nothing when it returns."""
    for kind, word in ((Generator, "yield"), (Coroutine, "async"), (AsyncGenerator, "async")):
        if isinstance(found, kind):
            if isinstance(found, Coroutine):
                found.close()
            raise SpaceError(
                f"suggest must return a TrialConfig, but returns a {type(found).__name__}; write it"
                f" without `{word}`"
            )


def _hashes(path: Path, loaded: LoadedSpace) -> dict[str, str]:
    """name -> hash of each file: from the folder of the space where it is below it."""
    return {
        _name_of(place, file, path.parent): hashlib.sha256(file.read_bytes()).hexdigest()
        for place, file in loaded.files.items()
    }


def _name_of(place: str, file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else place


def _source_hash(path: Path, loaded: LoadedSpace) -> str:
    """Of all files; where there is one only, its own."""
    digest = hashlib.sha256(path.read_bytes())
    rest = list(loaded.files.items())[1:]
    for name, file in sorted((_name_of(place, file, path.parent), file) for place, file in rest):
        content = file.read_bytes()
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _earlier_hashes(path: Path, loaded: LoadedSpace) -> tuple[str, ...]:
    """As earlier versions made them: of the file, and of those that its text imports from its folder."""
    digest = hashlib.sha256(path.read_bytes())
    alone = digest.hexdigest()
    for file in loaded.named:
        content = file.read_bytes()
        digest.update(f"\0{file.name}\0{len(content)}\0".encode() + content)
    return alone, digest.hexdigest()


def _checked(suggest: Suggest) -> Suggest:
    """`suggest` with a trial that refuses what a study cannot hold."""

    @functools.wraps(suggest)
    def ask(trial: AnyTrial) -> Any:
        return suggest(checked(trial))

    return ask
