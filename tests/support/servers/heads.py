"""What a Ray head answers to those who ask for its cluster, without Ray."""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

SERVICE, METHOD = "ray.rpc.NodeInfoGcsService", "GetClusterId"


@contextmanager
def head(cluster: bytes, token: str = "", port: int = 0) -> Iterator[int]:
    """A server that answers with the cluster's id; its port. token: what it asks for."""

    def answer(request: bytes, context: Any) -> bytes:
        sent = dict(context.invocation_metadata()).get("authorization")
        if token and sent != f"Bearer {token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return cluster

    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
    )
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield bound
    finally:
        server.stop(None).wait()
