"""The results of a study as pandas frames: `load` reads its files, `tabulate` the study itself.

pandas, and what reads a study, are imported when they are needed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meanflow_tune.formats import KEY, FormatError, check_format
from meanflow_tune.remote.location import UnusableRemote, is_remote
from meanflow_tune.remote.reading import fetch_study_at
from meanflow_tune.results.errors import ResultsError

if TYPE_CHECKING:
    import pandas as pd

    from meanflow_tune.records import TrialRecord
    from meanflow_tune.search.store.manifest import Manifest

TRIALS, METRICS = "results.parquet", "metrics.parquet"


@dataclass(frozen=True)
class StudyTables:
    """trials: one row per run and rung, with settings; metrics: one row per measured number, tidy."""

    folder: Path
    trials: "pd.DataFrame"
    metrics: "pd.DataFrame"


def load(folder: str | Path) -> StudyTables:
    """The tables that a search wrote into its study's folder, or at its URL, when it last ended.

    Of a study of an earlier revision, without metrics.parquet, both are made by `tabulate` instead.
    Nothing is written.

    Raises:
        ResultsError: there is no study, it has no results yet, or they cannot be read.
    """
    folder = _here(folder)
    trials, metrics = folder / TRIALS, folder / METRICS
    if not trials.is_file():
        _check_study(folder)
        raise ResultsError(
            f"{folder} has no {TRIALS} yet: a search writes it when it ends or is stopped; "
            f"results.tabulate({str(folder)!r}) makes the tables of one that runs"
        )
    if metrics.is_file():
        return StudyTables(folder, _read(trials), _read(metrics))
    try:
        return tabulate(folder)
    except ResultsError as error:
        raise ResultsError(
            f"{folder} has no {METRICS}, which earlier revisions did not write, and it cannot be made "
            f"from the study ({error}); run the command of the search again to write it"
        ) from None


def tabulate(folder: str | Path) -> StudyTables:
    """The same tables made from the study in `folder` as it is now, also while its search runs.

    Needs the study itself and, for rows of the teacher, data and noise and for the seeds of repeats, its
    trials' files. All objectives are taken as minimised. Nothing is written.

    Raises:
        ResultsError: there is no study in this folder, or it cannot be read.
    """
    folder = _here(folder)
    _check_study(folder)
    from meanflow_tune.results.metrics_table import RunKinds, metrics_table
    from meanflow_tune.results.parquet import results_table
    from meanflow_tune.search.errors import StorageError
    from meanflow_tune.search.objectives import Objectives

    try:
        manifest, records, confirmed = _read_study(folder)
        objectives = Objectives.parse(manifest.objective)
    except (StorageError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines()
        raise ResultsError(f"the study in {folder} cannot be read: {lines[0]}") from error
    kind_of = RunKinds(manifest.seed)
    names = [str(part) for part in objectives.parts]
    return StudyTables(
        folder,
        results_table([*records, *confirmed], names, objectives.values, kind_of),
        metrics_table(records, confirmed, objectives, manifest.seed),
    )


def _here(folder: str | Path) -> Path:
    """The study's folder, or the local copy of one at a URL. Raises ResultsError."""
    if not is_remote(folder):
        return Path(folder)
    try:
        return fetch_study_at(str(folder))
    except UnusableRemote as error:
        raise ResultsError(str(error)) from None


def _read_study(folder: Path) -> "tuple[Manifest, list[TrialRecord], list[TrialRecord]]":
    """The manifest, the records of the search, and those of its confirmation."""
    from meanflow_tune.search.errors import StorageError
    from meanflow_tune.search.store.manifest import Manifest
    from meanflow_tune.search.store.storage import open_storage
    from meanflow_tune.search.store.trials import read_records
    from meanflow_tune.search.study.relocate import find_study

    manifest = Manifest.read(folder)
    assert manifest is not None
    storage = open_storage(find_study(folder, None))
    records = read_records(storage, manifest.study, folder)
    try:
        confirmed = read_records(storage, f"{manifest.study}/confirm", folder / "confirm")
    except StorageError:
        confirmed = []  # not yet, or not asked for
    return manifest, records, confirmed


def _check_study(folder: Path) -> None:
    """Raise ResultsError, which names the studies nearby, where a folder holds no study."""
    from meanflow_tune.search.store.manifest import MANIFEST_NAME

    if (folder / MANIFEST_NAME).is_file():
        return
    places = (folder, folder.parent)
    found = [sorted(path.parent for path in place.glob(f"*/{MANIFEST_NAME}")) for place in places]
    known = ", ".join(str(path) for path in found[0] or found[1])
    what = "holds no study" if folder.is_dir() else "does not exist"
    raise ResultsError(f"{folder} {what}; " + (f"known: {known}" if known else "none is near it"))


def _read(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ResultsError(
            f"{path} cannot be read ({lines[0]}); run the command of the search again to write it"
        ) from error
    try:
        check_format(frame.attrs.pop(KEY, None), str(path))
    except FormatError as error:
        raise ResultsError(str(error)) from None
    return frame
