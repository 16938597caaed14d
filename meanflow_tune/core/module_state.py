"""The whole state of a network: what makes two instances of one network the same.

A network is stored as tensors and rebuilt by `rebuilding_generator` before they are loaded. A
`state_dict` lacks the non-persistent buffers, which a network may have drawn from its generator or
may change in training.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meanflow_tune.core.random import make_generator

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def rebuilding_generator() -> Generator:
    """The generator of every network whose numbers are then loaded."""
    return make_generator(0, "overwritten")


def has_dropout(net: nn.Module) -> bool:
    """Whether a layer of `net` drops in training: one of torch.nn, or one with a setting named `dropout`."""
    for part in net.modules():
        layer = part.p if isinstance(part, nn.modules.dropout._DropoutNd) else 0.0
        setting = getattr(part, "dropout", 0.0)
        if layer > 0.0 or (isinstance(setting, float) and setting > 0.0):
            return True
    return False


def hidden_buffers(net: nn.Module) -> dict[str, Tensor]:
    """The non-persistent buffers of `net`, by name."""
    known = net.state_dict()
    buffers = net.named_buffers(remove_duplicate=False)
    return {name: buffer for name, buffer in buffers if name not in known}


def whole_state(net: nn.Module, rebuilt: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The `state_dict` of `net` and its hidden buffers, not copied.

    rebuilt: the hidden buffers of the network as it is rebuilt. Those that are equal to them, and
    those that a rebuilt network lacks, because they were made in a call, are left out.
    """
    state: dict[str, Tensor] = dict(net.state_dict())
    for name, buffer in hidden_buffers(net).items():
        if rebuilt is None or (name in rebuilt and not _same(buffer, rebuilt[name])):
            state[name] = buffer.detach()
    return state


def load_whole_state(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `whole_state` gave; hidden buffers that `state` lacks stay as `net` was built.

    Raises RuntimeError as `load_state_dict` does, and ValueError for a hidden buffer of another shape.
    """
    hidden = hidden_buffers(net)
    net.load_state_dict({name: value for name, value in state.items() if name not in hidden})
    for name in hidden.keys() & state.keys():
        own, value = hidden[name], state[name]
        if own.shape != value.shape:
            raise ValueError(
                f"buffer {name!r} has shape {tuple(own.shape)}, but {tuple(value.shape)} was stored."
            )
        if not _same(own, value):
            own.copy_(value)


def copy_buffers(target: nn.Module, source: nn.Module) -> None:
    """Overwrite all buffers of `target` by those of `source`, another instance of the same network.

    Raises ValueError where `source` lacks one, or has it with another shape.
    """
    found = dict(source.named_buffers(remove_duplicate=False))
    for name, buffer in target.named_buffers():
        value = found.get(name)
        if value is None or value.shape != buffer.shape:
            raise ValueError(
                f"buffer {name!r} has changed its shape {tuple(buffer.shape)} since the network was built "
                f"(now {None if value is None else tuple(value.shape)}), so that it cannot be loaded."
            )
        buffer.copy_(value.detach())


def refuse_unstored(net: nn.Module, rebuilt: nn.Module) -> None:
    """Raises ValueError where `net` holds numbers that loading its state into `rebuilt` does not give.

    Tensors, arrays and numbers that are attributes of a module, not parameters or buffers, are not
    stored; they must therefore be the same in every instance.
    """
    others = dict(rebuilt.named_modules())
    for path, module in net.named_modules():
        other = vars(others[path]) if path in others else {}
        for name, value in vars(module).items():
            if name in _OF_EVERY_MODULE or _same(value, other.get(name)):
                continue
            where = f"{path}.{name}" if path else name
            raise ValueError(
                f"the network's attribute {where!r} differs between two instances, but is not stored with "
                "the weights, so that a checkpoint or an exported model would be another network: make "
                "it a buffer (`self.register_buffer`) or a parameter."
            )


def _same(x: Any, y: Any) -> bool:
    """Whether two values hold the same numbers; what holds none is the same."""
    if isinstance(x, Tensor):
        return (
            isinstance(y, Tensor)
            and x.shape == y.shape
            and x.dtype == y.dtype
            and torch.equal(x.detach(), y.detach().to(x.device))
        )
    if hasattr(x, "dtype") and hasattr(x, "tolist"):  # of numpy
        return type(x) is type(y) and _same(x.tolist(), y.tolist())
    if isinstance(x, bool | int | float | complex):
        return bool(x == y) or (x != x and y != y)
    if isinstance(x, list | tuple):
        return isinstance(y, list | tuple) and len(x) == len(y) and all(map(_same, x, y))
    if isinstance(x, dict):
        return isinstance(y, dict) and all(_same(value, y.get(key)) for key, value in x.items())
    return True
