"""The trials of Ray Tune, all in one actor on the driver's host.

A trial of Tune only relays: it hands its job to the broker and the broker's events to Tune. Tune starts
an actor for each of its trials, a process of 120 MiB that takes 1.5 s of a processor. Its interface to
them is a `ResourceManager`, whose resources turn a trial's class into what starts its actor; ours turn it
into a seat in the one actor that all share.
"""

import json
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.air.execution import ResourceManager, ResourceRequest
from ray.air.execution.resources.request import AcquiredResources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.broker_handle import BrokerHandle

JOB, EVENT = "job", "event"
_DONE = "done"  # Tune's key


class Relay(tune.Trainable):
    """config: {"job": JSON text}; text, since Ray Tune splits keys of a config at "/".

    Results are {"event": JSON text}, so that neither a NaN nor a missing metric means anything to Tune;
    the last one is there twice, the second time as Tune's own end.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.job = json.loads(config[JOB])
        self.seen = 0
        self.event: dict[str, Any] | None = None
        self._ended = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    @property
    def at_end(self) -> bool:
        """Whether the job has ended, and Tune was told so."""
        return self.event is not None and self.event["kind"] == "end"

    def step(self) -> dict[str, Any]:
        result = {EVENT: json.dumps(self.event), _DONE: self._ended}
        self._ended = self.at_end
        return result


class Relays:
    """The actor: a trial in each seat. Restarted after its process died, it is without seats, and Tune
    starts their trials again: they replay all events, of which the driver takes each once.
    """

    def __init__(self) -> None:  # nothing given, so that Ray can restart it at any time
        self._seats: dict[str, Relay] = {}
        self._broker: BrokerHandle

    # Waits for a restart, or Tune would use up its own in a second. Not so `train`: made twice where only
    # its answer was lost, it would skip an event.
    @ray.method(max_task_retries=-1)
    async def open(
        self, seat: str, broker: BrokerHandle, config: dict[str, Any], storage: Any
    ) -> None:
        self._broker = broker
        self._seats[seat] = Relay(config, storage)
        await self._submit(self._seats[seat])

    async def train(self, seat: str) -> dict[str, Any]:
        """Tune's next result of a trial: waits for its next event."""
        relay = self._seats[seat]
        while not relay.at_end:
            events = await self._broker.send(Broker.events, relay.job["number"], relay.seen)
            if events:
                relay.seen, relay.event = relay.seen + 1, events[0]
                break
        result: dict[str, Any] = relay.train()
        return result

    async def reset(self, seat: str, *arguments: Any, **keywords: Any) -> bool:
        """The seat is free for the next trial."""
        relay = self._seats[seat]
        done = bool(relay.reset(*arguments, **keywords))
        await self._submit(relay)
        return done

    async def call(self, seat: str, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Whatever else Tune asks of a trial."""
        return getattr(self._seats[seat], method)(*arguments, **keywords)

    async def close(self, seat: str) -> None:
        self._seats.pop(seat, None)

    async def _submit(self, relay: Relay) -> None:
        await self._broker.send(Broker.submit, relay.job)


class Seats(ResourceManager):
    """What Tune asks for the resources of its trials: there are always some, since relays need none."""

    def __init__(self, broker: BrokerHandle) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote = ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=100_000)(Relays)
        self._relays = remote.options(scheduling_strategy=here).remote()
        self._broker = broker

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._relays)

    def request_resources(self, resource_request: ResourceRequest) -> None:
        pass

    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        pass

    def has_resources_ready(self, resource_request: ResourceRequest) -> bool:
        return True

    def acquire_resources(self, resource_request: ResourceRequest) -> "_Acquired":
        return _Acquired(resource_request, self._relays, self._broker)

    def free_resources(self, acquired_resource: AcquiredResources) -> None:
        pass

    def clear(self) -> None:
        pass


@dataclass
class _Acquired(AcquiredResources):
    relays: Any
    broker: BrokerHandle

    def annotate_remote_entities(self, entities: list[Any]) -> list[Any]:
        return [_SeatClass(self.relays, self.broker) for _ in entities]


@dataclass(frozen=True)
class _SeatClass:
    """In place of an actor's class."""

    relays: Any
    broker: BrokerHandle

    def remote(self, config: dict[str, Any], storage: Any) -> "_Seat":
        seat = uuid.uuid4().hex
        return _Seat(self.relays, seat, self.relays.open.remote(seat, self.broker, config, storage))


class _Seat:
    """In place of an actor's handle."""

    def __init__(self, relays: Any, seat: str, opened: Any) -> None:
        self._relays, self._name, self._opened = relays, seat, opened

    def __getattr__(self, method: str) -> "_Method":
        return _Method(self, method)

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        relays, name = self._relays, self._name
        if method == "__ray_ready__":
            return self._opened
        if method == "__ray_terminate__":
            return relays.close.remote(name)
        if method in ("train", "reset"):
            return getattr(relays, method).remote(name, *arguments, **keywords)
        return relays.call.remote(name, method, *arguments, **keywords)


@dataclass(frozen=True)
class _Method:
    seat: _Seat
    name: str

    def remote(self, *arguments: Any, **keywords: Any) -> Any:
        return self.seat.call(self.name, *arguments, **keywords)
