"""What each deployment does first when its replica starts."""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.serve._private import replica

_BIND = "add_port_to_grpc_server"
"""By what name Serve's module for replicas knows Ray's function that has a gRPC server listen."""

logger = logging.getLogger(__name__)


def prepare_replica() -> None:
    """Called once by each deployment, in its constructor."""
    _log_with_serve()
    _listen_on_node_address()


def node_address() -> str:
    """That which Ray gives this node: others look for it there."""
    host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray's own lack
    return host


def _log_with_serve() -> None:
    """Our log lines where Serve's are: in the log file of the replica."""
    ours, serves = logging.getLogger("moe_serving"), logging.getLogger("ray.serve")
    ours.setLevel(logging.INFO)
    ours.handlers = serves.handlers
    ours.propagate = False


def _listen_on_node_address() -> None:
    """Each replica has a server for calls of other deployments by gRPC, which Serve binds to all interfaces, and has no
    setting for it: have it listen on the address that Ray gives this node instead, where others of Serve look for it.

    It starts after the constructor of the deployment. It asks for Ray's token where there is one.
    """
    host = node_address()
    bind = getattr(replica, _BIND, None)
    if bind is None:
        logger.warning("this release of Serve binds its server between deployments in another way: see its address")
        return

    def bind_to_node(server: Any, address: str) -> Any:
        port = address.rpartition(":")[2]
        return bind(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    setattr(replica, _BIND, bind_to_node)
