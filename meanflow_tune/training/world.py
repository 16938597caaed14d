"""World: the ranks of one training run, over torch.distributed where there is more than one."""

import os
import sys
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Rank `rank` of `size` on `device`; with size > 1 the default process group must be up."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and talks to the search."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """Rank 0's `value` on every rank."""
        if self.size == 1:
            return value
        box = [value if self.leads else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank, on every rank."""
        if self.size == 1:
            return [value]
        box: list[T | None] = [None] * self.size
        dist.all_gather_object(box, value)
        return box  # type: ignore[return-value]

    def gather_rows(self, local: Tensor, total: int) -> Tensor:
        """Undo the split by `rows`: local [n, ...] of each rank to [total, ...] on every rank."""
        if self.size == 1:
            return local
        longest = -(-total // self.size)
        padded = torch.zeros(longest, *local.shape[1:], dtype=local.dtype, device=local.device)
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        whole = torch.stack(parts, dim=1).reshape(longest * self.size, *local.shape[1:])
        return whole[:total]

    def rows(self, total: int) -> slice:
        """The rows of a global batch of `total` that this rank works on (strided)."""
        return slice(self.rank, total, self.size)

    def sum(self, value: float) -> float:
        """Sum of a number over the ranks."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(box)
        return float(box.item())


def end_rank(status: int = 0) -> NoReturn:
    """Leave the process group and end this process, even if threads of torch are left in it.

    A rank that lets its interpreter finalise may abort ("terminate called without an active exception").
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
