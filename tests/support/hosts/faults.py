"""Faults of a cluster of hosts, and the seconds until a search runs again. Each leaves the cluster whole."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.hosts.mlflow_host import MlflowHost
from tests.support.hosts.namespaces import Host, wait_until
from tests.support.hosts.paced_search import PacedSearch
from tests.support.hosts.ray_hosts import RayHosts
from tests.support.hosts.traces import Rank

RECOVERY_SECONDS = 400.0  # for a busy machine; the goals are in `measured.GOALS`
END_SECONDS = 180.0  # in which a driver that lost its cluster ends


@dataclass
class Faults:
    """Breaks something under a running search; every method returns the seconds to its recovery.

    choose: picks one of several things to break; mlflow: the server, if there is one.
    """

    search: PacedSearch
    choose: Callable[[list[Any]], Any] = lambda found: found[0]
    mlflow: MlflowHost | None = None

    @property
    def cluster(self) -> RayHosts:
        return self.search.cluster

    def rank(self) -> float:
        """`kill -9` of a rank of a slot that trains."""
        rank = self.choose(sorted(self.search.training(), key=lambda rank: (rank.host, rank.pid)))
        since = time.time()
        self._kill(rank)
        same = (rank.host, rank.pid)
        return self.search.recover(RECOVERY_SECONDS, lambda r: (r.host, r.pid) == same, since)

    def raylet(self) -> float:
        """`kill -9` of the raylet of a worker host, whose supervisor starts another."""
        host, gone = self._victim()
        since = time.time()
        os.kill(self.cluster.raylet(host), signal.SIGKILL)
        seconds = self.search.recover(RECOVERY_SECONDS, lambda r: gone(r, since), since)
        self._whole()
        return seconds

    def power(self) -> float:
        """Power cut of a worker host, which is switched on again once the search has recovered."""
        host, gone = self._victim()
        since = time.time()
        host.power_off()
        seconds = self.search.recover(RECOVERY_SECONDS, lambda r: gone(r, since), since)
        host.boot()
        self.cluster.start_worker(host)
        self._whole()
        return seconds

    def link(self) -> float:
        """A worker host is cut off, then healed; its supervisor brings it back."""
        host, gone = self._victim()
        since = time.time()
        host.cut()
        try:
            seconds = self.search.recover(RECOVERY_SECONDS, lambda r: gone(r, since), since)
        finally:
            host.heal()
        self._whole()
        return seconds

    def driver(self, host: Host, *options: str) -> float:
        """`kill -9` of the driver; the same command on another host replaces it."""
        driver = self.search.driver
        assert driver is not None
        return self._replace(host, options, lambda: driver.signal(signal.SIGKILL))

    def drivers_host(self, host: Host, *options: str) -> float:
        """Power cut of the driver's host; the same command on another host replaces it."""
        lost = self.search.driver_host
        assert lost is not None
        seconds = self._replace(host, options, lost.power_off)
        lost.boot()
        self.cluster.start_worker(lost)
        self._whole()
        return seconds

    def _replace(self, host: Host, options: tuple[str, ...], end: Callable[[], None]) -> float:
        driver = self.search.driver
        assert driver is not None
        assert host is not self.search.driver_host
        since = time.time()
        end()
        driver.wait(10.0)
        self.search.start(host, *options)
        return self.search.recover(RECOVERY_SECONDS, lambda r: r.started < since, since)

    def head(self, waits: bool = False) -> float:
        """Power cut of the head's host, which is built again. waits: the driver waits for it; otherwise
        it ends and the command is repeated on the head's host.
        """
        head, driver = self.cluster.head, self.search.driver
        assert head is not None
        assert driver is not None
        lost = self.search.driver_host is head
        since = time.time()
        head.power_off()
        head.boot()
        self.cluster.start_head(head)
        if not waits:
            if not lost:
                assert driver.wait(END_SECONDS) == 5, driver.said()
            self.search.start(head)
        self._whole()
        return self.search.recover(RECOVERY_SECONDS, lambda r: r.started < since, since)

    def tracking(self) -> float:
        """`kill -9` of the MLflow server, which starts again; nothing waits for it."""
        assert self.mlflow is not None
        since = time.time()
        self.mlflow.stop()
        self.search.wait_for_slots(RECOVERY_SECONDS)
        seconds = time.time() - since
        self.mlflow.start()
        return seconds

    def _victim(self) -> tuple[Host, Callable[[Rank, float], bool]]:
        """A host that is neither the head's nor the driver's, where possible with a slot; and which ranks a
        fault there ends.
        """
        spared = {self.cluster.head, self.search.driver_host}
        hosts = [host for host in self.cluster.bed.hosts if host not in spared]
        busy = {rank.host for rank in self.search.training()}
        host = self.choose([host for host in hosts if host.name in busy] or hosts)

        def gone(other: Rank, since: float) -> bool:
            return other.host == host.name and other.started < since

        return host, gone

    def _kill(self, rank: Rank) -> None:
        host = next(host for host in self.cluster.bed.hosts if host.name == rank.host)
        pid = host.outer(rank.pid)
        assert pid is not None, rank
        os.kill(pid, signal.SIGKILL)

    def _whole(self) -> None:
        """Until every host is back in the cluster."""
        wanted = sorted(host.address for host in self.cluster.bed.hosts if host.is_on)
        wait_until(
            lambda: self.cluster.census()["nodes"] == wanted,
            RECOVERY_SECONDS,
            lambda: f"{wanted} in {self.cluster.census()}; logs: {self.cluster.bed.logs}",
        )
