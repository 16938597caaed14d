"""Rows of a batch that the processor chooses, and copies between its memory and a device's that do not wait.

Which rows get which pass follows from a few numbers per row. They are drawn in the processor's memory, so
that no step asks a device for them: it would wait until the device has finished all that was sent to it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_tune.core.types import Columns, PathSample


@dataclass(frozen=True)
class Rows:
    """Indices of rows, int64 [n], in the processor's memory and on the device of the batch.

    On the processor both are one tensor.
    """

    host: Tensor
    here: Tensor

    @classmethod
    def of(cls, index: Tensor, device: torch.device | str = "cpu") -> "Rows":
        """From indices in the processor's memory, for a batch on `device`."""
        return cls(index, to_device(index, device))

    @classmethod
    def where(cls, chosen: Tensor, device: torch.device | str = "cpu") -> "Rows":
        """The rows with True in `chosen`, bool [B] in the processor's memory."""
        return cls.of(chosen.nonzero().squeeze(1), device)

    def __len__(self) -> int:
        return len(self.host)

    def take(self, some: "Rows | None") -> "Rows":
        """Of these rows the given ones; None for all."""
        if some is None:
            return self
        host = self.host[some.host]
        return Rows(host, host if self.here is self.host else self.here[some.here])


def columns_of(path: PathSample) -> Columns:
    """What decides about the rows of `path`. Waits for a device where the path was made without them."""
    if path.columns is not None:
        return path.columns
    given = (path.t, path.s, path.label, path.uniform_draw, path.ode_draw)
    return Columns(*(None if x is None else x.cpu() for x in given))  # type: ignore[arg-type]


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor`, in the processor's memory, on `device`; itself where that is the processor.

    From pinned memory and not waiting: a copy from other memory stops the processor until the device has
    done all that came before.
    """
    if torch.device(device).type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A copy of a tensor in the processor's memory that is begun now and read later."""

    def __init__(self, tensor: Tensor) -> None:
        self._values = tensor.detach()
        self._wait: Callable[[], object] = _done
        if tensor.device.type != "cpu":
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor.detach(), non_blocking=True)
            self._wait = event(tensor.device)

    def read(self) -> Tensor:
        """The values; waits for the device where it has not come to them yet."""
        self._wait()
        return self._values


def event(device: torch.device) -> Callable[[], object]:
    """A function that returns when `device` has done all that was sent to it so far."""
    mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
    mark.record(torch.cuda.current_stream(device))
    return mark.synchronize


def _done() -> None:
    pass
