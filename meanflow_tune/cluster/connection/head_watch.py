"""HeadWatch: notices that the head of the cluster has ended, before Ray's own core ends this process.

Ray's core calls `_exit` once a head has been silent for a minute, and aborts when another one answers.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meanflow_tune.cluster.errors import ClusterError, ClusterLost, TokenRefused
from meanflow_tune.cluster.signals import Stop

# A head with fault tolerance (Redis) may be back within this time, and the search continues.
LOST_SECONDS = 40.0
# A private Ray has none.
LOCAL_LOST_SECONDS = 5.0
PERIOD_SECONDS = 1.0
# How long the main thread may take to notice a lost head; longer, it is stuck inside Ray.
STUCK_SECONDS = 15.0

log = logging.getLogger(__name__)
Abandon = Callable[[ClusterLost], None]


class HeadWatch:
    """Asks the head once per second, in its own thread.

    ask: the cluster's id, see `cluster_id`; expected: what it answered first. abandon: ends the process,
    called in this thread if no other has noticed the loss for STUCK_SECONDS. where: for messages.
    """

    def __init__(
        self,
        ask: Callable[[], bytes],
        expected: bytes,
        where: str,
        lost_seconds: float = LOST_SECONDS,
        abandon: Abandon | None = None,
    ) -> None:
        self._ask, self._expected, self._where = ask, expected, where
        self._lost_seconds, self._abandon = lost_seconds, abandon
        self._stopped, self._changed = threading.Event(), threading.Condition()
        self._heard = time.monotonic()
        self._asked, self._answered = 0, True
        self._noticed = False
        self._error: ClusterLost | None = None
        self.thread = threading.Thread(target=self._run, name="head watch", daemon=True)

    def start(self) -> "HeadWatch":
        """Begin to ask."""
        self.thread.start()
        return self

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    @property
    def lost(self) -> bool:
        """Whether the head has ended for good."""
        return self._error is not None

    @property
    def silence(self) -> float:
        """Seconds since the head last answered."""
        return time.monotonic() - self._heard

    def check(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Return at once while the head answers. Raises ClusterLost once it is lost.

        Waits while that is open, unless `give_up()`: a call of Ray would hang, or end the process.
        """
        while self._error is None and self.silence > 3 * PERIOD_SECONDS and not give_up():
            if self._stopped.is_set():
                return
            with self._changed:
                self._changed.wait(0.2)
        if self._error is not None:
            self._noticed = True
            raise self._error

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """An error in the block becomes ClusterLost if the head is lost, which is its cause then."""
        try:
            yield
        except ClusterLost:
            raise
        except Exception as error:
            if not _may_come_from_ray(error):
                raise
            self._wait_for_answer()
            if self._error is not None:
                self._noticed = True
                raise self._error from error
            raise

    def _wait_for_answer(self) -> None:
        """Until the head has answered a question that is asked from now on, or is lost."""
        asked = self._asked
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self.lost
                    or self._stopped.is_set()
                    or not self.thread.is_alive()
                    or (self._asked > asked + 1 and self._answered)
                )
            )

    def notice(self) -> None:
        """Tell that the main thread is not stuck, and is ending the search."""
        self._noticed = True

    def _run(self) -> None:
        while not self._stopped.wait(PERIOD_SECONDS):
            cause = self._cause()
            if not cause:
                with self._changed:
                    self._asked += 1
                    self._changed.notify_all()
            else:
                self._error = ClusterLost(
                    f"the Ray cluster at {self._where} is lost: {cause}; nothing was lost but work since "
                    "the last rungs"
                )
                with self._changed:
                    self._changed.notify_all()
                break
        else:
            return
        if self._stopped.wait(STUCK_SECONDS) or self._noticed or self._abandon is None:
            self._stopped.wait()  # alive, as a sign that Ray must not be shut down any more
        else:
            self._abandon(self._error)

    def _cause(self) -> str:
        """Why the head is lost; "" if it is not, or not yet."""
        try:
            found = self._ask()
        except TokenRefused:
            if self._expected:
                return "its head wants another token, so it is another cluster"
            found = self._expected
        except Exception as error:  # of any kind: `check` waits for this thread
            log.debug("the head does not answer: %s", error)
            self._answered = False
            if self.silence < self._lost_seconds:
                return ""
            return f"its head has not answered for {self.silence:.0f} s"
        if found != self._expected:
            return "its head was restarted, which ended all that ran there"
        self._heard, self._answered = time.monotonic(), True
        return ""


def _may_come_from_ray(error: Exception) -> bool:
    root = type(error).__module__.partition(".")[0]
    disk = isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError)
    return isinstance(error, ClusterError) or (root in ("ray", "grpc", "builtins") and not disk)


class WatchedStop:
    """`stop`, whose check also waits for a silent head, and raises ClusterLost for a lost one."""

    def __init__(self, stop: Stop, watch: HeadWatch) -> None:
        self._stop, self._watch = stop, watch

    @property
    def requested(self) -> bool:
        self._watch.check(give_up=lambda: self._stop.requested)
        return self._stop.requested
