"""The inbox of a study: what another terminal asks of it, as files that its driver picks up.

Only a driver writes the study, so a request is a file `requests/KEY.json`, put there atomically. The driver
applies it, and removes it afterwards; a kill in between makes it apply the request again, which changes
nothing, since the study holds the key of an enqueued trial and the mark of a stopped one. A request that
cannot be applied is moved to `requests/refused/` with its reason.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from meanflow_tune.files import write_atomic
from meanflow_tune.formats import FORMAT, FormatError, check_format_of

INBOX_NAME = "requests"
REFUSED = "refused"


@dataclass(frozen=True)
class UserRequest:
    """kind: stop the trial, or enqueue a trial with `params`. reason: why it was refused; fault: why the
    file is no request.
    """

    key: str
    kind: Literal["stop", "enqueue", ""] = ""
    trial: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    time: float = 0.0
    reason: str = ""
    fault: str = ""

    def __str__(self) -> str:
        if self.kind == "stop":
            return f"stop trial {self.trial}"
        if self.kind == "enqueue":
            shown = ", ".join(f"{name} {value}" for name, value in self.params.items())
            return f"enqueue a trial with {shown or 'no fixed parameter'}"
        return f"the file {self.key}.json"


class Inbox:
    """The requests of a study's folder, oldest first."""

    def __init__(self, study_folder: Path) -> None:
        self.folder = study_folder / INBOX_NAME

    def stop(self, trial: int) -> UserRequest:
        """Ask for the end of a trial. Raises OSError."""
        return self._put(UserRequest(_new_key(), "stop", trial=trial, time=time.time()))

    def enqueue(self, params: Mapping[str, Any]) -> UserRequest:
        """Ask for a trial with these parameters. Raises OSError."""
        return self._put(UserRequest(_new_key(), "enqueue", params=dict(params), time=time.time()))

    def waiting(self) -> list[UserRequest]:
        """The requests that were not applied yet. Raises OSError."""
        return _read_all(self.folder)

    def refused(self) -> list[UserRequest]:
        """The requests that could not be applied, with reasons. Raises OSError."""
        return _read_all(self.folder / REFUSED)

    def remove(self, request: UserRequest) -> None:
        """Take out an applied request, or withdraw one. Raises OSError."""
        self._path(request).unlink(missing_ok=True)

    def refuse(self, request: UserRequest, reason: str) -> None:
        """Move a request to the refused ones. Raises OSError."""
        place = self.folder / REFUSED / f"{request.key}.json"
        if request.fault:  # as it is: it may be a file that somebody wants back
            place.parent.mkdir(parents=True, exist_ok=True)
            self._path(request).replace(place)
            return
        _write(place, UserRequest(**asdict(request) | {"reason": reason}))
        self.remove(request)

    def _put(self, request: UserRequest) -> UserRequest:
        _write(self._path(request), request)
        return request

    def _path(self, request: UserRequest) -> Path:
        return self.folder / f"{request.key}.json"


def _new_key() -> str:
    """Keys sort by time; two terminals never have the same one."""
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}"


def _write(path: Path, request: UserRequest) -> None:
    data = {"format": FORMAT} | {
        k: v for k, v in asdict(request).items() if k not in ("key", "fault")
    }
    write_atomic(path, json.dumps(data, indent=1) + "\n")


def _read_all(folder: Path) -> list[UserRequest]:
    # A temporary file of an unfinished write ends otherwise.
    found = [_read(path) for path in sorted(folder.glob("*.json"))]
    return [request for request in found if request is not None]


def _read(path: Path) -> UserRequest | None:
    """A request; None where the driver has removed it meanwhile."""
    try:
        data = json.loads(path.read_bytes())
        check_format_of(data, path.name)
        request = UserRequest(
            path.stem,
            data["kind"],
            data.get("trial"),
            dict(data.get("params") or {}),
            float(data.get("time", 0.0)),
            str(data.get("reason", "")),
        )
    except FileNotFoundError:
        return None
    except FormatError as error:
        return UserRequest(path.stem, fault=str(error))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return UserRequest(path.stem, fault="it is no request")
    of_stop = request.kind == "stop" and type(request.trial) is int
    if not of_stop and request.kind != "enqueue":
        return UserRequest(path.stem, fault="it is no request")
    return request
