"""How the ranks of a trial find each other on several hosts."""

import fcntl
import os
import socket
import struct

import ray

# Set per rank, unless the user has set them where Ray was started.
_SIOCGIFADDR = 0x8915  # netdevice(7): the address of an interface
_INTERFACE_VARIABLES = {"GLOO_SOCKET_IFNAME": "{}", "NCCL_SOCKET_IFNAME": "={}"}


def use_own_interface() -> None:
    """Let Gloo and NCCL use the interface whose address Ray knows this host by. Runs in each rank.

    Gloo would take what the host's name resolves to, which is 127.0.1.1 on a default Debian or
    Ubuntu. (MASTER_ADDR, which Ray Train sets, is the address that Ray knows already.)
    """
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        for variable, form in _INTERFACE_VARIABLES.items():
            os.environ.setdefault(variable, form.format(interface))


def interface_of(address: str) -> str | None:
    """The name of this host's network interface with an IPv4 address; None where none has it."""
    wanted = socket.inet_aton(address) if ":" not in address else b""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            if answer[20:24] == wanted:
                return name
    return None
