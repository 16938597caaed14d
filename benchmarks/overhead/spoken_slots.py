"""Slots without training: one asyncio process speaks for many of them, by the calls that real ranks make."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.overhead.bookkeeping import simulated_report
from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.worker import BEAT_SECONDS
from meanflow_tune.records import Outcome

# A method of the broker and its arguments; the result is awaited, or not.
Send = Callable[..., Awaitable[Any]]
USE = {"host": "simulated", "pid": 0, "memory": 0}


class SpokenSlots:
    """names: of the slots, of one rank each; every: seconds between two reports of a slot.

    verdicts, beats: seconds from a report to its decision, and from a heartbeat to its answer.
    """

    def __init__(self, names: Sequence[str], every: float) -> None:
        self._names, self._every = list(names), every
        self._stopping: dict[str, int] = dict.fromkeys(names, 0)
        self._progress: dict[str, tuple[int, dict[str, Any]] | None] = dict.fromkeys(names)
        self.verdicts: list[float] = []
        self.beats: list[float] = []

    async def run(self, send: Send) -> None:
        """Take jobs until the broker closes; reports of the slots are spread evenly over `every`."""
        step = self._every / max(1, len(self._names))
        await asyncio.gather(*(self._slot(send, n, k * step) for k, n in enumerate(self._names)))

    def take_figures(self) -> tuple[list[float], list[float]]:
        """`verdicts` and `beats` since the last call."""
        found = self.verdicts, self.beats
        self.verdicts, self.beats = [], []
        return found

    async def _slot(self, send: Send, name: str, offset: float) -> None:
        await asyncio.sleep(offset)
        me = name, uuid.uuid4().hex
        await send(Broker.register, *me)
        beating = asyncio.ensure_future(self._beat(send, me))
        try:
            while (answer := await send(Broker.next_job, *me))["kind"] in ("job", "wait"):
                if answer["kind"] == "job":
                    await self._job(send, me, answer["job"], answer["round"])
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating

    async def _beat(self, send: Send, me: tuple[str, str]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            progress, self._progress[me[0]] = self._progress[me[0]], None
            answer = await send(Broker.beat, *me, False, 0, USE, progress)
            self.beats.append(loop.time() - began)
            self._stopping[me[0]] = answer["stopping"]
            await asyncio.sleep(BEAT_SECONDS)

    async def _job(
        self, send: Send, me: tuple[str, str], job: dict[str, Any], search_round: int
    ) -> None:
        number, config = job["number"], job["config"]
        budget, loop = config["budget"], asyncio.get_running_loop()
        for share in budget["rungs"]:
            images, due = round(share * budget["images"]), loop.time() + self._every
            while (left := due - loop.time()) > 0.0:
                progress = {"phase": "train", "images": images, "of": budget["images"], "loss": 0.1}
                self._progress[me[0]] = number, progress
                await asyncio.sleep(min(BEAT_SECONDS, left))
                if self._stopping[me[0]] >= search_round:
                    await self._done(send, me, number, Outcome("running", "interrupted"))
                    return
            began = loop.time()
            report = simulated_report(config, images).to_dict()
            go_on = await send(Broker.report, *me, number, report)
            self.verdicts.append(loop.time() - began)
            if not go_on and share < 1.0:
                await self._done(send, me, number, Outcome("pruned", "stopped at a rung"))
                return
        await self._done(send, me, number, Outcome("completed"))

    async def _done(self, send: Send, me: tuple[str, str], number: int, outcome: Outcome) -> None:
        await send(Broker.done, *me, number, outcome.to_dict())
