"""How a driver begins on a study: under which terms, in a new generation, after an import.

Between the manifest, which says what changed, and the ledger, which goes on with what is there.
"""

import os
import time
from collections.abc import Callable

from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import EXIT_IN_USE, SearchRequest, UserError
from meanflow_tune.search.errors import SpaceError, StudyChanged, StudyInUse
from meanflow_tune.search.space.distributions import Distributions, draw_distributions
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.manifest import Manifest, TermsCheck, check_terms
from meanflow_tune.search.store.storage import Storage
from meanflow_tune.search.study.generations import Target, count_trials, make_generation
from meanflow_tune.search.study.import_trials import find_origin, import_study

# Changes of these may be more than Optuna can follow in place.
RENEWING = ("space_hash", "objective")


def begin(
    storage: Storage, request: SearchRequest, plan: Plan, new: Manifest, say: Callable[[str], None]
) -> tuple[TermsCheck, Manifest]:
    """Settle the terms, bring the study into a shape that fits them, and write the manifest.

    Where no trial is left to run, nothing is refused and nothing is written: the terms say what
    changed, and `TermsCheck.enforce` refuses later, should a confirmation be left.

    Raises:
        StudyChanged: something changed, trials are left to run, and the changes are not accepted;
            or the import is not possible.
    """
    old = Manifest.read(request.folder)
    held = count_trials(storage, request.study)
    if old is None and held.all and request.study_storage is not None:
        raise StudyChanged(
            f"{new.study_storage} holds a study {request.study} of another storage folder (there is no"
            f" manifest in {request.folder}); name that folder by --storage, or give the search"
            " another study name"
        )
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
    # Also without a change: a space whose draws did not show a conflict is drawn again on request.
    changed = old is not None and any(getattr(old, n) != getattr(new, n) for n in RENEWING)
    if changed or request.accept_changes:
        target = Target(
            objectives, _distributions(request, plan), plan.suggest, plan.space.baselines
        )
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
            _distributions(request, plan),
            objectives,
            terms.manifest,
            say,
        )
    terms.manifest.write(request.folder)
    return terms, terms.manifest


def _distributions(request: SearchRequest, plan: Plan) -> Distributions:
    try:
        return draw_distributions(plan.space.suggest, plan.space.baselines)
    except SpaceError as error:
        raise SpaceError(f"--space {request.space}: {error}") from None


def put_aside(request: SearchRequest) -> None:
    """Rename an existing study's folder; raises UserError while a driver holds it."""
    if not request.folder.exists():
        return
    try:
        Lease.acquire(request.folder).release()
    except StudyInUse as error:
        raise UserError(str(error), EXIT_IN_USE) from None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    os.rename(request.folder, request.storage / f"{request.study}-aside-{stamp}")
