"""Checks of a cluster before a search: its resources, and its hosts as the doctor examines them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanflow_tune.cluster.doctor.diagnosis import faults, gathered
from meanflow_tune.cluster.doctor.examination import examine_hosts
from meanflow_tune.cluster.doctor.host_facts import differing_versions, installed_versions
from meanflow_tune.cluster.errors import HostUnfit


def check_resources(
    total: dict[str, float], count: int, workers: int, resources_per_worker: dict[str, float]
) -> None:
    """Raises HostUnfit unless `count` slots of `workers` ranks fit into `total` resources."""
    for kind, amount in resources_per_worker.items():
        need, have = count * workers * amount, total.get(kind, 0.0)
        if need > have + 1e-9:
            what = f"{count} slots" if count > 1 else "A slot"
            lower = "--max-concurrent, --workers-per-trial" if count > 1 else "--workers-per-trial"
            raise HostUnfit(
                f"{what} of {workers} workers with {amount:g} {kind} each need{'s' * (count == 1)} "
                f"{need:g}, but the cluster has {have:g} {kind}. Lower {lower} or "
                f"--{kind.lower()}s-per-worker."
            )


def check_hosts(
    storage: Path | str,
    example: dict[str, Any] | None,
    say: Callable[[str], None],
    shared: bool = True,
) -> None:
    """Raises HostUnfit for each fault of a host. example: see `examine_hosts`; say: is told the warnings.

    shared: whether hosts must see one folder `storage`; otherwise `HostNeeds.reach` is asked in each rank.
    """
    every = examine_hosts(storage, example)
    found = gathered(one for one in every if shared or one.check != "storage")
    if wrong := faults(found):
        raise HostUnfit("\n  ".join(one.line() for one in wrong))
    for one in found:
        if one.level == "warning":
            say(one.line())


@dataclass(frozen=True)
class HostNeeds:
    """What a host must have to run ranks, for those that join while a search runs.

    folder: of the study, which exists and must be writable; versions: of Python and the packages; reach:
    raises where the storage cannot be reached, in place of a look at a folder.
    """

    folder: str
    versions: dict[str, str]
    reach: Callable[[], None] | None = None

    @classmethod
    def of_driver(cls, folder: Path, reach: Callable[[], None] | None = None) -> "HostNeeds":
        """What this process has."""
        return cls(str(folder.absolute()), installed_versions(), reach)

    def check_here(self) -> None:
        """Raises HostUnfit. Runs in each rank, before the ranks meet."""
        host = os.uname().nodename
        if self.reach is not None:
            try:
                self.reach()
            except (OSError, ValueError) as error:
                raise HostUnfit(f"host {host} cannot reach the storage: {error}.") from None
        elif not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise HostUnfit(
                f"host {host} does not see the study's folder {self.folder}, or may not write there. "
                "--storage must be a folder that all hosts share, at the same path."
            )
        if differing := differing_versions(installed_versions(), self.versions):
            raise HostUnfit(f"host {host} has {differing}. Install the same versions on all hosts.")
