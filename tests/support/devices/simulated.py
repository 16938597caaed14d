"""A device that lies in the processor's memory, and tells each time a GPU in its place would stop for it.

Torch has no GPU without a GPU. Its type is "meta", the only one that autograd takes without a driver; its
tensors hold numbers, so that a step on it can be compared with one on the processor.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from meanflow_tune.core import rows

DEVICE = "meta"
_ATEN = torch.ops.aten
# Whose result, or the shape of whose result, the processor must know before it continues.
_READS = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "unique_dim",
    "unique_consecutive",
    "_unique",
    "_unique2",
    "bincount",
    "_assert_async",
}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_COPIES = {"_to_copy", "copy_", "copy"}


class Synchronised(AssertionError):
    """A step waits for its device; says by which operator."""


class OnDevice(Tensor):
    """A tensor of the simulated device; inner: its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("a tensor of the simulated device was used after it was switched off")


class Simulated(TorchDispatchMode):
    """Runs operators on its tensors on the processor.

    strict: raises Synchronised where a GPU would stop the processor. pinned: addresses of pinned memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strict = False
        self.pinned: dict[int, Tensor] = {}
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        name = func.overloadpacket.__name__
        flat, tree = tree_flatten((args, named))
        tensors = [x for x in flat if isinstance(x, Tensor)]
        here = [x for x in tensors if isinstance(x, OnDevice)]
        host = [x for x in tensors if not isinstance(x, OnDevice)]
        if name == "_pin_memory":
            return self._pinned(args[0].clone())
        if name == "is_pinned":
            return args[0].data_ptr() in self.pinned
        if named.get("pin_memory"):
            return self._pinned(func(*args, **{**named, "pin_memory": None}))
        target = named.get("device")
        to_device = target is not None and torch.device(target).type == DEVICE
        lost = [x for x in host if x.device.type == DEVICE]
        if lost and self.strict:
            raise Synchronised(
                f"aten.{name} with a tensor made from numbers of Python on the device"
            )
        if (not here and not to_device) or lost:
            return func(*args, **named)
        if self.strict:
            self._judge(name, args, named, here, host, to_device)
        if not (to_device or target is None or name in _COPIES):
            here = []  # made for the processor
        copied_home = name == "_to_copy" and target is not None and not to_device
        plain = tree_unflatten([x.inner if isinstance(x, OnDevice) else x for x in flat], tree)
        arguments, options = plain
        if to_device:
            options["device"] = torch.device("cpu")
        found = func(*arguments, **options)
        written = {id(x.inner): x for x in flat if isinstance(x, OnDevice)}
        if copied_home or (name == "copy_" and not isinstance(args[0], OnDevice)):
            return args[0] if name == "copy_" else found
        return tree_map_only(
            Tensor, lambda x: written[id(x)] if id(x) in written else OnDevice(x), found
        )

    def _pinned(self, tensor: Tensor) -> Tensor:
        self.pinned[tensor.data_ptr()] = tensor  # kept, so that no other tensor gets its address
        return tensor

    def _judge(
        self,
        name: str,
        args: Any,
        named: dict[str, Any],
        here: list[OnDevice],
        host: list[Tensor],
        to_device: bool,
    ) -> None:
        if name in _READS:
            raise Synchronised(f"aten.{name} is read by the processor")
        if name in _INDEXED and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        ):
            raise Synchronised(f"aten.{name} with a mask has a shape that the device must tell")
        if name == "repeat_interleave" and named.get("output_size") is None:
            raise Synchronised("aten.repeat_interleave without output_size asks the device for it")
        if name in _COPIES:
            source = args[0] if name == "_to_copy" else args[1]
            target = args[0] if name != "_to_copy" else None
            across = bool(host) if name != "_to_copy" else to_device != isinstance(source, OnDevice)
            target_device = named.get("device")
            across = across if name != "_to_copy" or target_device is not None else False
            if across:
                self.copies += 1
                waits = not (named.get("non_blocking") or (name == "copy_" and True in args[2:]))
                memory = target if isinstance(source, OnDevice) else source
                loose = memory is None or memory.data_ptr() not in self.pinned
                if waits or loose:
                    raise Synchronised(
                        f"aten.{name} between the device and {'pageable' if loose else 'pinned'} "
                        f"memory{' waits' if waits else ''}"
                    )
        elif any(x.dim() > 0 for x in host):
            raise Synchronised(f"aten.{name} mixes tensors of the device and of the processor")


@contextmanager
def simulated_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    """Switches the device `DEVICE` on."""
    module = sys.modules["torch.optim.optimizer"]  # which torch.optim hides
    fused = [*module._get_fused_kernels_supported_devices(), DEVICE]
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: fused)
    enabled = torch.is_autocast_enabled  # which knows no "meta"
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind != DEVICE and enabled(kind))
    monkeypatch.setattr(rows, "event", lambda device: lambda: None)
    with Simulated() as simulated:
        yield simulated


@contextmanager
def strictly(simulated: Simulated) -> Iterator[None]:
    """Within, each synchronisation is an error."""
    simulated.strict = True
    try:
        yield
    finally:
        simulated.strict = False


def numbers(tensor: Tensor) -> Tensor:
    """Of a tensor of either device."""
    return tensor.inner if isinstance(tensor, OnDevice) else tensor
