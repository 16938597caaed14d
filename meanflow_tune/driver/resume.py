"""How a driver resumes a study: what must match, when a new generation is made, and imports.

Between the manifest, which says what changed, and the ledger, which continues the study.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict

from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import EXIT_UNUSABLE, SearchRequest, UserError
from meanflow_tune.search.errors import (
    DatabaseDown,
    SpaceError,
    StorageError,
    StudyChanged,
)
from meanflow_tune.search.space.distributions import Distributions, draw_distributions
from meanflow_tune.search.store.database import check_database, same_database
from meanflow_tune.search.store.database_lease import AnyLease
from meanflow_tune.search.store.manifest import (
    Manifest,
    TermsCheck,
    check_terms,
    environment,
    with_source,
)
from meanflow_tune.search.store.storage import JOURNAL_NAME, Storage, is_server
from meanflow_tune.search.study.generations import Target, count_trials, make_generation
from meanflow_tune.search.study.import_trials import find_origin, import_study
from meanflow_tune.urls import hide_password

# Optuna may be unable to follow changes of these in place.
RENEWING = ("space_hash", "objective")
VARIABLE = "OPTUNA_STORAGE"


def check_study_storage(request: SearchRequest) -> None:
    """Before anything starts: raises UserError for a database that cannot be used, or does not answer."""
    url = request.study_storage
    if url is None or not is_server(url):
        return
    name = VARIABLE if os.environ.get(VARIABLE) == url else "--study-storage"
    if request.tracking_uri is not None and same_database(url, request.tracking_uri):
        raise UserError(
            f"{name} and the tracking URI name one database, {hide_password(url)}, and both Optuna and MLflow"
            " keep the version of their tables in a table alembic_version: give each a database."
        )
    try:
        check_database(url)
    except DatabaseDown as error:
        raise UserError(
            f"{name}: {error}; start it, or correct the URL.", EXIT_UNUSABLE, repeat=True
        ) from None
    except StorageError as error:
        raise UserError(f"{name}: {error}.") from None


def prepare_study(
    storage: Storage, plan: Plan, say: Callable[[str], None]
) -> tuple[TermsCheck, Manifest]:
    """Check the terms, make a new generation or import trials where asked to, and write the manifest.

    Where no trial is left to run, nothing is refused or written: the notes say what changed, and
    `TermsCheck.enforce` refuses later if a confirmation is left.

    Raises:
        StudyChanged: something changed, trials are left to run, and the changes are not accepted;
            or the import is not possible.
    """
    request, new = plan.request, _manifest(plan)
    old = Manifest.read(request.folder)
    if old is not None:
        old = with_source(old, new, plan.space.earlier_hashes)
    held = count_trials(storage, request.study)
    if old is None and held.all and request.study_storage is not None:
        raise StudyChanged(
            f"{new.study_storage} holds a study {request.study} of another storage folder (there is no"
            f" manifest in {request.folder}); name that folder by --storage, or give the search"
            " another study name"
        )
    if old is not None:
        _compare_folders(held.all, request, say)
    terms = check_terms(old, new, held.all, request.accept_changes)
    if held.all > request.trials:
        say(
            f"note: --trials {request.trials}: the study has {held.all} trials already; none is lost,"
            " and no new one is started"
        )
    if held.unfinished or held.all < request.trials:
        terms.enforce()
    elif terms.binding:
        for note in (*terms.notes, *terms.idle_notes):
            say(note)
        return terms, new
    for note in terms.notes:
        say(note)
    objectives = plan.objectives
    # Also on request without a change: draws of a space may have missed a conflict.
    changed = old is not None and any(getattr(old, n) != getattr(new, n) for n in RENEWING)
    if changed or request.accept_changes:
        target = Target(objectives, _distributions(plan), plan.suggest, plan.space.baselines)
        make_generation(storage, request.study, target, say)
        make_generation(storage, f"{request.study}/confirm", Target(objectives), say)
    if request.import_study is not None:
        origin = find_origin(request.import_study, request.storage)
        if origin == request.folder.absolute():
            raise StudyChanged(f"--import-study {request.import_study} is the study itself")
        import_study(
            storage,
            request.study,
            origin,
            _distributions(plan),
            objectives,
            terms.manifest,
            say,
        )
    terms.manifest.write(request.folder)
    return terms, terms.manifest


def _compare_folders(trials: int, request: SearchRequest, say: Callable[[str], None]) -> None:
    """Say where the study's folder has trials that its storage lacks: it is older, or another one.

    Raises StorageError where the storage has none at all.
    """
    folder = request.folder / "trials"
    there = [int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal()]
    missing = sum(number >= trials for number in there)
    if not missing:
        return
    place = hide_password(request.study_storage or str(request.folder / JOURNAL_NAME))
    copies = sorted(path.name for path in request.folder.glob(f"{JOURNAL_NAME}.*-[0-9]*"))
    beside = f" (a copy next to it: {', '.join(copies)})" if copies else ""
    if trials:
        say(
            f"note: {place} holds {trials} trials of study {request.study}, but {folder} has {missing} later"
            f" ones: the storage was restored from a backup, or has lost its end{beside}; trials of those"
            " numbers are run anew, and the folders of others are put aside"
        )
        return
    raise StorageError(
        f"{place} holds no trial of study {request.study}, but {folder} has {len(there)}; name the database "
        f"that holds them by --study-storage, restore it from a backup{beside}, or put the old study"
        " aside by --resume fresh"
    )


def _manifest(plan: Plan) -> Manifest:
    request, space = plan.request, plan.space
    return Manifest(
        study=request.study,
        space=request.space,
        space_hash=space.source_hash,
        space_files=dict(space.files),
        goal=space.goal,
        objective=str(plan.objectives),
        overrides=request.settings,
        sampler=request.sampler,
        seed=request.seed,
        seeds=None if plan.seeds is None else asdict(plan.seeds),
        rungs=str(plan.rungs),
        data_fingerprint=plan.data_fingerprint,
        startup_trials=request.startup_trials,
        trials=request.trials,
        time_budget=request.time_budget,
        study_storage=hide_password(request.study_storage) if request.study_storage else None,
        **environment(),
    )


def _distributions(plan: Plan) -> Distributions:
    try:
        return draw_distributions(plan.space.suggest, plan.space.baselines)
    except SpaceError as error:
        raise SpaceError(f"--space {plan.request.space}: {error}") from None


def put_aside(request: SearchRequest, take_lease: Callable[[], AnyLease]) -> None:
    """Rename an existing study's folder, under its lease, which `take_lease` takes."""
    if not request.folder.exists():
        return
    take_lease().release()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    os.rename(request.folder, request.storage / f"{request.study}-aside-{stamp}")
