"""What every slot of a search is made of."""

from dataclasses import dataclass

from ray import cloudpickle

from meanflow_tune.cluster.broker_handle import BrokerHandle
from meanflow_tune.cluster.preflight import HostNeeds
from meanflow_tune.records import RunJob


@dataclass(frozen=True)
class SlotSpec:
    """`workers` ranks, each with `resources`, e.g. {"CPU": 1.0}.

    run_job: pickled, and loaded by the ranks alone, which can say why that fails. needs: of each host,
    checked when ranks start there, since hosts can join while a search runs; None where all is one host.
    """

    broker: BrokerHandle
    workers: int
    resources: dict[str, float]
    run_job: bytes
    needs: HostNeeds | None = None

    @classmethod
    def of(
        cls,
        broker: BrokerHandle,
        workers: int,
        resources: dict[str, float],
        run_job: RunJob,
        needs: HostNeeds | None = None,
    ) -> "SlotSpec":
        """run_job: must be picklable."""
        if workers < 1:
            raise ValueError(f"`workers >= 1` must hold, but got ({workers=})")
        return cls(broker, workers, dict(resources), cloudpickle.dumps(run_job), needs)

    def __str__(self) -> str:
        rank = " and ".join(f"{amount:g} {kind}" for kind, amount in self.resources.items())
        return f"{rank} on any host" if self.workers == 1 else f"{self.workers} x ({rank})"
