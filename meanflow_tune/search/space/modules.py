"""The Python files that a search space consists of: loading them, finding them, and their places.

A space may import helpers that lie next to its file (`import helper`, `from .helper import x`), in
packages below or above it, or anywhere else that Python finds. What is neither installed nor part of
meanflow_tune belongs to the space: a study notices its changes, and workers get it.
"""

import ast
import importlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import meanflow_tune
from meanflow_tune.search.errors import SpaceError, fault_text

PACKAGE = "search_spaces"
_INSTALLED = {"site-packages", "dist-packages"}
# Files of spaces that this process has loaded; another load runs them again, as they are then.
_LOADED: set[str] = set()


@dataclass(frozen=True)
class LoadedSpace:
    """A space's module. files: where a folder to import from has each file, as in `helpers/near.py` ->
    the file; the space's own is the first. named: what an import in their text names, sorted.
    """

    module: ModuleType
    files: Mapping[str, Path]
    named: tuple[Path, ...]


def spaces_folder() -> Path:
    """The folder of the search spaces that come with this project."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(meanflow_tune.__file__).resolve().parents[1] / PACKAGE


def load_module(path: Path, shipped: Path) -> LoadedSpace:
    """Run the file of a space. shipped: the folder of spaces that come with this project.

    Raises SpaceError, and forgets what was imported, where that fails.
    """
    _forget()
    before = sys.modules.copy()
    try:
        module = _run(path, shipped)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever code of a space may raise, also SystemExit
        for name, added in sys.modules.copy().items():
            if name not in before and _is_own(_file_of(added), shipped):
                del sys.modules[name]
        text = fault_text(error)
        if isinstance(error, ValueError):
            text = f"{type(error).__name__}: {text}"
        raise SpaceError(f"search space {path}: {text}") from error
    found = {_place(module): path}
    after = sys.modules.copy()
    for name in sorted(after.keys() - before):
        added = after[name]
        file = _file_of(added)
        if file is not None and _is_own(file, shipped):
            found.setdefault(_place(added), file)
    named = tuple(sorted(_files_in_text(path, shipped)))
    for file in named:
        if file.resolve() not in {known.resolve() for known in found.values()}:
            found.setdefault(_place_of_file(file, path, module, shipped), file)
    _LOADED.update(str(file) for file in found.values())
    return LoadedSpace(module, found, named)


def _run(path: Path, shipped: Path) -> ModuleType:
    if path.parent == shipped:
        return _execute(f"{PACKAGE}.{path.stem}", path, None)
    name = re.sub(r"\W", "_", path.stem)
    root = _package_root(path)
    with _importable(path.parent), _importable(root):
        if root != path.parent:
            parent = ".".join(path.parent.relative_to(root).parts)
            if _imports_from(parent, path.parent):
                return _execute(f"{parent}.{name}", path, None)
        # Its own package, so that `from .helper import x` finds the files next to it.
        return _execute(f"_space_{name}", path, path.parent)


def _execute(name: str, path: Path, folder: Path | None) -> ModuleType:
    """folder: where the modules of this one are, if it is a package."""
    locations = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    # Dataclasses and pydantic look their module up while it loads.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before
        raise
    return module


def _package_root(path: Path) -> Path:
    """The folder from which the packages around a file are imported; its own folder without any."""
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        folder = folder.parent
    return folder


def _imports_from(name: str, folder: Path) -> bool:
    """Import a package; False where another one of that name is found first."""
    top = sys.modules.get(name.partition(".")[0])
    if top is not None and _file_of(top) is None:
        return False
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return False
        raise
    return any(
        Path(place).resolve() == folder.resolve() for place in getattr(found, "__path__", ())
    )


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """First among the folders to import from; from then on the last, for imports within `suggest`."""
    text = str(folder)
    sys.path.insert(0, text)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(text)
        if text not in sys.path:
            sys.path.append(text)


def _forget() -> None:
    """Drop the modules of spaces that were loaded before: their files may have changed."""
    for name, module in sys.modules.copy().items():  # a thread may import meanwhile
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file in _LOADED and not name.startswith(f"{PACKAGE}."):
            del sys.modules[name]


def _file_of(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


def _is_own(file: Path | None, shipped: Path) -> bool:
    """Whether a file belongs to a space: it is neither installed nor a part of this package."""
    if file is None or not file.is_file():
        return False
    if file.is_relative_to(shipped):
        return True
    paths = sysconfig.get_paths()
    library = [
        Path(paths["stdlib"]),
        Path(paths["platstdlib"]),
        Path(meanflow_tune.__file__).parent,
    ]
    places = {file, file.resolve()}
    return not any(
        _INSTALLED & set(place.parts) or any(place.is_relative_to(folder) for folder in library)
        for place in places
    )


def _place(module: ModuleType) -> str:
    """Where a folder to import from has the file of a module."""
    *parents, last = module.__name__.split(".")
    assert module.__file__ is not None
    name = Path(module.__file__).name
    if hasattr(module, "__path__"):
        return "/".join([*parents, last, f"__init__{Path(name).suffix}"])
    # The file of a space may have a name that is no module's; that of compiled code says for what it is.
    return "/".join([*parents, f"{last}.py" if name.endswith(".py") else name])


def _place_of_file(file: Path, path: Path, module: ModuleType, shipped: Path) -> str:
    """The same of a file that is not imported yet: as a helper of the space's folder."""
    if file.is_relative_to(shipped):
        return f"{PACKAGE}/{file.relative_to(shipped).as_posix()}"
    return file.relative_to(path.parent).as_posix()


def _files_in_text(path: Path, shipped: Path) -> set[Path]:
    """Files of its folder and of `shipped` that a file imports, at any depth, also within a function."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported_files(file, path.parent, shipped)
    return found - {path}


def _imported_files(path: Path, folder: Path, shipped: Path) -> set[Path]:
    """Files of `folder` and of `shipped` that a file imports, wherever in it the import stands."""
    found: set[Path] = set()
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # it fails when it is imported
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= _files_of(alias.name, folder, shipped)
        elif isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if node.level else folder
            for alias in node.names:
                name = f"{node.module}.{alias.name}" if node.module else alias.name
                found |= _files_of(name, start, shipped, relative=node.level > 0)
    return {file for file in found if file.is_relative_to(folder) or file.parent == shipped}


def _files_of(name: str, folder: Path, shipped: Path, relative: bool = False) -> set[Path]:
    """The files that an import of the dotted `name` may run, with `folder` as one place to find it."""
    parts = name.split(".")
    places = [(folder, parts)]
    if not relative:
        if parts[0] == meanflow_tune.__name__:  # the code of this project is no part of a space
            return set()
        if parts[0] == PACKAGE:
            places.append((shipped, parts[1:]))
        if parts[0] == folder.name:  # where the folder above is one to import from
            places.append((folder, parts[1:]))
    found: set[Path] = set()
    for place, rest in places:
        for depth in range(1, len(rest) + 1):
            inner = place.joinpath(*rest[:depth])
            found |= {Path(f"{inner}.py"), inner / "__init__.py"}
    return {file for file in found if file.is_file()}
