"""How the operator is run, read from the command line."""

from __future__ import annotations

import argparse
import math
import os
import re
import socket
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from moe_operator.arguments import LABEL, host_and_port, kubernetes_namespace
from moe_operator.runtimes.http.addresses import AddressPattern, AddressPolicy
from moe_operator.runtimes.kube_ray.activators import ServiceName
from moe_operator.runtimes.kube_ray.manifests.network import Whereabouts
from moe_operator.telemetry.logs import LogFormat

DEFAULT_NAMESPACE = "moe-system"
"""Where the manifests put the operator's ServiceAccount, and so the Lease."""
LEASE_NAME = "moe-operator"
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def in_cluster() -> bool:
    """Whether this process runs in a pod."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def own_namespace() -> str:
    """The namespace of this pod, or where the operator's manifests put it."""
    if in_cluster() and _POD_NAMESPACE.exists():
        return _POD_NAMESPACE.read_text().strip()
    return DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True)
class Options:
    """Options of ``moe-operator run``.

    Attributes:
        namespaces: whose MoEDeployments are worked; empty for all.
        workers: keys worked at the same time. They mostly wait: for a Ray that does not answer, 6 s each time.
        resync_seconds: between two full listings.
        cleanup_deadline: seconds after which a deletion goes on although Ray does not answer.
        bind: host and port of /healthz and /metrics.
        lease_namespace: of the Lease by which one operator is active.
        lease_name: those who work different namespaces need different ones.
        whereabouts: namespaces of those who must reach the head of a Ray cluster that KubeRay runs.
        activator: its Service, where one is installed: it holds requests to deployments that sleep.
        identity: of this process in the Lease and in Events.
    """

    kubeconfig: Path | None = None
    namespaces: tuple[str, ...] = ()
    workers: int = 32
    resync_seconds: float = 300.0
    cleanup_deadline: float = 300.0
    bind: tuple[str, int] = ("127.0.0.1", 8080)
    lease_namespace: str = DEFAULT_NAMESPACE
    lease_name: str = LEASE_NAME
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    whereabouts: Whereabouts = field(default_factory=Whereabouts)
    activator: ServiceName | None = None
    log_format: LogFormat = LogFormat.HUMAN
    log_level: str = "INFO"
    identity: str = field(default_factory=lambda: f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``run``."""
    default = Options()
    _add_kubeconfig(parser)
    _add_namespaces(parser)
    parser.add_argument(
        "--allowed-ray-address",
        action="append",
        default=[],
        type=_pattern,
        metavar="PATTERN",
        help="where a MoEDeployment's Ray may be: host, host:port or network/bits, with * and ? in a host; may be "
        "repeated (default: anywhere; in a pod, not at loopback and link-local addresses)",
    )
    parser.add_argument(
        "--bind",
        type=host_and_port,
        default=default.bind,
        metavar="HOST:PORT",
        help="address of /healthz and /metrics; port 0: a free one (default: 127.0.0.1:8080)",
    )
    parser.add_argument(
        "--workers", type=_positive_count, default=default.workers, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--resync",
        type=_positive_number,
        default=default.resync_seconds,
        metavar="SECONDS",
        help="between two listings of all objects (default: %(default)s)",
    )
    parser.add_argument(
        "--cleanup-deadline",
        type=_positive_number,
        default=default.cleanup_deadline,
        metavar="SECONDS",
        help="after which a deletion goes on although its Ray does not answer (default: %(default)s)",
    )
    parser.add_argument(
        "--lease-namespace",
        type=kubernetes_namespace,
        default=own_namespace(),
        metavar="NAME",
        help="namespace of the Lease by which one operator is active (default: the pod's, else moe-system)",
    )
    parser.add_argument(
        "--lease-name",
        type=_object_name,
        default=default.lease_name,
        metavar="NAME",
        help="of that Lease; operators of different namespaces need different ones (default: %(default)s)",
    )
    parser.add_argument(
        "--kuberay-namespace",
        action="append",
        default=[],
        type=kubernetes_namespace,
        metavar="NAME",
        help="where KubeRay's operator runs; NetworkPolicies let it in from there alone; may be repeated (default: "
        "from anywhere, by the labels of its pods)",
    )
    parser.add_argument(
        "--activator",
        type=_service,
        metavar="NAMESPACE/SERVICE",
        help="Service of the activator, which holds requests to deployments that sleep (default: none is installed)",
    )
    parser.add_argument(
        "--log-format", type=LogFormat, choices=list(LogFormat), default=default.log_format, help="default: human"
    )
    parser.add_argument(
        "--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"], default=default.log_level, help="default: INFO"
    )


def read_run_options(arguments: argparse.Namespace) -> Options:
    """What was given on the command line."""
    return Options(
        kubeconfig=arguments.kubeconfig,
        namespaces=tuple(dict.fromkeys(arguments.namespace)),
        workers=arguments.workers,
        resync_seconds=arguments.resync,
        cleanup_deadline=arguments.cleanup_deadline,
        bind=arguments.bind,
        lease_namespace=arguments.lease_namespace,
        lease_name=arguments.lease_name,
        addresses=AddressPolicy(tuple(arguments.allowed_ray_address), refuse_local=in_cluster()),
        whereabouts=Whereabouts(
            tuple(dict.fromkeys(arguments.kuberay_namespace)), (own_namespace(),) if in_cluster() else ()
        ),
        activator=arguments.activator,
        log_format=arguments.log_format,
        log_level=arguments.log_level,
    )


def add_uninstall_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``check-uninstall``: whose operator shall go."""
    _add_kubeconfig(parser)
    _add_namespaces(parser)


def add_trial_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``trial``."""
    _add_kubeconfig(parser)
    parser.add_argument(
        "--namespace", type=kubernetes_namespace, default=own_namespace(), metavar="NAME", help="default: the pod's"
    )
    parser.add_argument(
        "--spec",
        type=Path,
        metavar="FILE",
        help="spec of the MoEDeployment, as YAML; default, and where it is empty: one whose Ray is nowhere",
    )
    parser.add_argument(
        "--timeout",
        type=_positive_number,
        default=300.0,
        metavar="SECONDS",
        help="until it must be served (default: %(default)s)",
    )


def _add_kubeconfig(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="access to Kubernetes (default: $KUBECONFIG, else ~/.kube/config, else the pod's ServiceAccount)",
    )


def _add_namespaces(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace",
        action="append",
        default=[],
        type=kubernetes_namespace,
        metavar="NAME",
        help="work the MoEDeployments of this namespace only; may be repeated (default: of all namespaces)",
    )


def _pattern(text: str) -> AddressPattern:
    try:
        return AddressPattern.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _object_name(text: str) -> str:
    if not re.fullmatch(rf"{LABEL}(\.{LABEL})*", text) or len(text) > 253:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of an object: at most 253 of a-z, 0-9, '-' and '.', with no '-' at the ends of "
            "what stands between dots"
        )
    return text


def _service(text: str) -> ServiceName:
    namespace, _, name = text.partition("/")
    return ServiceName(kubernetes_namespace(namespace), _object_name(name))


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number greater than 0")
    return value


def _positive_count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a count of at least 1")
    return value
