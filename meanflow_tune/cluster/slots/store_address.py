"""The store by which the ranks of a trial find each other listens on one address, not on all interfaces."""

import importlib
import socket
from typing import Any

_MODULE = "torch.distributed.rendezvous"


def listen_on_one_address() -> None:
    """In a worker, before its process group is set up: torch has no setting for it."""
    place: Any = importlib.import_module(_MODULE)
    if getattr(place.TCPStore, "listens_on_one_address", False):
        return
    place.TCPStore = _replacement(place.TCPStore)


def _replacement(real: Any) -> Any:
    def store(host_name: str, port: int, *, is_master: bool, **more: Any) -> Any:
        if is_master:
            family = socket.AF_INET6 if ":" in host_name else socket.AF_INET
            listener = socket.create_server((host_name, port), family=family, backlog=512)
            more["master_listen_fd"] = listener.detach()
        return real(host_name=host_name, port=port, is_master=is_master, **more)

    store.listens_on_one_address = True  # type: ignore[attr-defined]
    return store
