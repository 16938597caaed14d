"""A sink in the place of MLflow, whose database takes seconds to create."""

from meanflow_tune.tracking.outbox import Event


class RecordingSink:
    """Keeps the events that it is told; takes and ignores the arguments of an `MlflowSink`."""

    def __init__(self, *_: object, **__: object) -> None:
        self.seen: list[Event] = []

    def apply(self, event: Event) -> None:
        self.seen.append(event)
