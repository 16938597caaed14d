"""Commands to a running or resting study from another terminal: they leave requests for its driver."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from meanflow_tune.plan.enqueue import read_enqueued
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import EXIT_OK, EXIT_UNUSABLE, SearchRequest, UserError
from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.store.holder import read_lease
from meanflow_tune.search.store.lease import is_held
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import trial_states
from meanflow_tune.search.study.inbox import Inbox
from meanflow_tune.search.study.relocate import find_study


def stop_trials(request: SearchRequest, numbers: Sequence[int]) -> int:
    """Leave a request to stop each of these trials. Raises UserError before the first if one is refused."""
    states = _states(request, "--stop-trial")
    for number in numbers:
        if number not in states:
            known = (
                f"the study has trials 0 to {max(states)}" if states else "the study has none yet"
            )
            raise UserError(f"--stop-trial {number}: there is no such trial; {known}.")
        if states[number] not in ("running", "paused", "waiting"):
            raise UserError(f"--stop-trial {number}: it has already ended ({states[number]}).")
    inbox = Inbox(request.folder)
    for number in dict.fromkeys(numbers):
        try:
            if number in {one.trial for one in inbox.waiting() if one.kind == "stop"}:
                print(f"trial {number}: its stop was already asked for")
                continue
            inbox.stop(number)
        except OSError as error:
            raise _unwritable(inbox, error) from None
        print(
            f"trial {number} ({states[number]}) will end as pruned, stopped by the user: {_when(request)}"
        )
    return EXIT_OK


def enqueue(request: SearchRequest, path: Path) -> int:
    """Leave a request for each trial in a file, in its order, once all of them are valid."""
    states = _states(request, "--enqueue")
    manifest = Manifest.read(request.folder)
    assert manifest is not None
    made_with = {
        "space": manifest.space,
        "settings": manifest.overrides,
        "seed": manifest.seed,
        "resume": "must",
    }
    given = {name: getattr(request, name) for name in request.model_fields_set}
    if Path(given.get("space", "")).suffix == ".py":  # where it is now
        made_with["space"] = given["space"]
    plan = make_plan(SearchRequest(**given | made_with | _trials(manifest)))
    found = read_enqueued(path, plan.suggest)
    inbox = Inbox(request.folder)
    for params, notes in found:
        try:
            asked = inbox.enqueue(params)
        except OSError as error:
            raise _unwritable(inbox, error) from None
        print(f"{asked}: {_when(request)}, after baselines, before proposals")
        for note in notes:
            print(f"  note: {note}")
    total = manifest.trials
    if total is not None and len(states) + len(found) > total:
        more = len(states) + len(found)
        print(
            f"The study has {len(states)} of its {total} trials: what does not fit waits until a search is"
            f" started with --trials {more} or more."
        )
    return EXIT_OK


def _trials(manifest: Manifest) -> dict[str, int]:
    return {} if manifest.trials is None else {"trials": manifest.trials}


def _states(request: SearchRequest, flag: str) -> dict[int, str]:
    """number -> state of all trials. Raises UserError where there is no study."""
    try:
        if Manifest.read(request.folder) is None:
            raise UserError(
                f"{flag}: there is no study {request.study} in {request.storage}; name it by --study and"
                " --storage."
            )
        location = find_study(request.folder, request.study_storage)
        return trial_states(open_storage(location), request.study)
    except StorageError as error:
        raise UserError(f"{flag}: {error}.", EXIT_UNUSABLE) from None


def _when(request: SearchRequest) -> str:
    """When a request is applied, in words."""
    lease = read_lease(request.folder)
    if lease is None or not is_held(request.folder):
        where = shlex.join(["--study", request.study, "--storage", str(request.storage)])
        return f"when the search is next started ({where}), since no driver is running"
    return f"process {lease.pid} on {lease.host} picks it up within seconds"


def _unwritable(inbox: Inbox, error: OSError) -> UserError:
    why = error.strerror or str(error)
    return UserError(f"{inbox.folder}: the request cannot be written ({why}).", EXIT_UNUSABLE)
