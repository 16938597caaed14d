"""Lets einops take jets, where a network uses it.

einops asks each of its backends whether a tensor is its own; a backend is found by being a subclass. It is
neither imported here nor needed.
"""

import sys
from typing import Any

from meanflow_tune.core.jets.jet import Jet

_REGISTERED: list[type] = []


def register_with_einops() -> None:
    """Once per process, after einops was imported; until then it costs one look-up per pass."""
    backends = sys.modules.get("einops._backends")
    if backends is None or _REGISTERED:
        return

    class JetBackend(backends.TorchBackend):  # type: ignore[misc, name-defined]
        """Torch's operators, which have rules."""

        # einops asks a backend only where a module of this name has been imported.
        framework_name = Jet.__module__

        def is_appropriate_type(self, tensor: Any) -> bool:
            return isinstance(tensor, Jet)

        def from_numpy(self, x: Any) -> Any:
            raise NotImplementedError("einops makes no jets of arrays: use torch.from_numpy")

    _REGISTERED.append(JetBackend)
