"""A real Kubernetes control plane for tests and the demo: etcd, kube-apiserver and controllers that clean up.

`with ControlPlane.start(directory) as plane:` brings one up on a free port of loopback; several run side by side.
RBAC is on: `plane.kubectl` is an administrator, `plane.user` and `Kubectl.service_account_kubeconfig` are anybody
else. Nothing of it outlives the process that started it. There are no nodes, and a Pod stays Pending, unless somebody
starts them (`ForNodes`; see `moe_dev.node`).
"""

import base64
import http
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from moe_dev import binaries
from moe_dev.kube import Kubectl, write_private
from moe_dev.pki import Authority, KeyPair
from moe_dev.processes import Guarded, HopelessError
from moe_serving.standalone.ports import free_ports

# Minutes on a machine where eight builds run, seconds otherwise.
READY_SECONDS = 120.0
# What a namespace needs to come and go, and children to go with their owner.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
)
# Every write with who did it, and of ServiceAccounts also what they read; the control plane's own work is left out.
OWN_USERS = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"]
OWN_GROUPS = ["system:masters", "system:nodes", "system:serviceaccounts:kube-system"]
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": OWN_USERS},
        {"level": "None", "userGroups": OWN_GROUPS},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "Metadata"},
    ],
}
# The sockets of etcd lie in its working directory: a relative path stays below the 107 bytes a socket may have.
ETCD_CLIENTS = "unix://etcd.sock"
ETCD_PEERS = "unix://peers.sock"


@dataclass(frozen=True, slots=True)
class ForNodes:
    """How nodes and pods reach a control plane: `address` and `port`; pods also by the first of all Services."""

    address: str
    port: int
    # A range in CIDR notation, and the first address in it.
    services: str
    api_service: str


class ControlPlane:
    """One running control plane; `stop` or the end of the `with` block ends it."""

    def __init__(self, directory: Path, authority: Authority, nodes: ForNodes | None) -> None:
        self.directory = directory
        self._address, self._port = (nodes.address, nodes.port) if nodes else ("127.0.0.1", free_ports(1)[0])
        self.url = f"https://{self._address}:{self._port}"
        # JSON lines: writes of users, and all that ServiceAccounts ask for, without the control plane's own.
        self.audit_log = directory / "audit.log"
        self._nodes = nodes
        self._authority = authority
        self._processes: list[Guarded] = []
        self._administrator = authority.user("administrator", ["system:masters"])
        self.kubeconfig = self._write_kubeconfig("administrator", self._administrator)
        self.kubectl = Kubectl(binaries.binary(binaries.KUBECTL), self.kubeconfig)

    @classmethod
    def start(cls, directory: Path, *, controllers: bool = True, nodes: ForNodes | None = None) -> Self:
        """Start one in `directory`, which is made 0700, and wait until it works; ProcessError says what did not.

        Without `controllers` namespaces stay when they are deleted, and children when their owner is. With `nodes`
        all controllers and a scheduler run, and it listens where they say.
        """
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        plane = cls(directory, Authority(directory), nodes)
        try:
            plane._start_etcd()
            plane._start_apiserver()
            if controllers:
                plane._start_controllers()
            if nodes:
                plane._start_scheduler()
        except BaseException:
            plane.stop()
            raise
        return plane

    @property
    def processes(self) -> tuple[Guarded, ...]:
        """What must run for it to work."""
        return tuple(self._processes)

    def user(self, name: str, groups: Sequence[str] = ()) -> Kubectl:
        """kubectl as a user of that name and those groups, who has the rights that RBAC gives them."""
        return Kubectl(self.kubectl.binary, self._write_kubeconfig(name, self._authority.user(name, groups)))

    def stop(self) -> None:
        """End all processes, the last started first; does nothing the second time."""
        while self._processes:
            self._processes.pop().stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_etcd(self) -> None:
        self._run(
            binaries.ETCD,
            "--data-dir=etcd",
            f"--listen-client-urls={ETCD_CLIENTS}",
            f"--advertise-client-urls={ETCD_CLIENTS}",
            f"--listen-peer-urls={ETCD_PEERS}",
            f"--initial-advertise-peer-urls={ETCD_PEERS}",
            f"--initial-cluster=default={ETCD_PEERS}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_apiserver(self) -> None:
        signing_key = self._authority.signing_key()
        policy = write_private(self.directory / "audit-policy.json", json.dumps(AUDIT_POLICY))
        process = self._run(
            binaries.APISERVER,
            f"--etcd-servers={ETCD_CLIENTS}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={self._port}",
            f"--client-ca-file={self._authority.certificate}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={signing_key}",
            f"--service-account-signing-key-file={signing_key}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            "--shutdown-delay-duration=0s",
            *(self._flags_for_nodes(self._nodes) if self._nodes else self._flags_without_nodes()),
        )
        process.wait_until(f"{self.url}/readyz", self._unready, READY_SECONDS, beside=self._processes)

    def _flags_without_nodes(self) -> list[str]:
        server = self._authority.server()
        return [
            # Nobody reaches the API through the Service "kubernetes", and a machine may have only its loopback.
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={server.certificate}",
            f"--tls-private-key-file={server.key}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
        ]

    def _flags_for_nodes(self, nodes: ForNodes) -> list[str]:
        service = "kubernetes.default.svc"
        names = ["kubernetes", "kubernetes.default", service, f"{service}.cluster.local"]
        server = self._authority.server(names, [nodes.address, nodes.api_service])
        # To kubelets it is an administrator; to API servers behind it (such as one of metrics) it vouches for users.
        to_kubelets = self._authority.user("apiserver-kubelet-client", ["system:masters"])
        to_extensions = self._authority.user("front-proxy-client", [])
        return [
            f"--tls-cert-file={server.certificate}",
            f"--tls-private-key-file={server.key}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={nodes.services}",
            "--allow-privileged",
            f"--kubelet-client-certificate={to_kubelets.certificate}",
            f"--kubelet-client-key={to_kubelets.key}",
            "--kubelet-preferred-address-types=InternalIP",
            # It has no kube-proxy: it asks pods, not Services.
            "--enable-aggregator-routing",
            f"--requestheader-client-ca-file={self._authority.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={to_extensions.certificate}",
            f"--proxy-client-key-file={to_extensions.key}",
        ]

    def _start_controllers(self) -> None:
        user = "system:kube-controller-manager"
        if self._nodes:
            # Pods get the authority's certificate, and tokens with which they prove who they are.
            key = self.directory / "service-accounts.key"
            which = [f"--root-ca-file={self._authority.certificate}", f"--service-account-private-key-file={key}"]
        else:
            which = [f"--controllers={','.join(CONTROLLERS)}"]
        process = self._run(
            binaries.CONTROLLER_MANAGER,
            f"--kubeconfig={self._write_kubeconfig(user, self._authority.user(user, []))}",
            *which,
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
        )
        process.wait_until("the controllers", self._no_default_account, READY_SECONDS, beside=self._processes)

    def _start_scheduler(self) -> None:
        user = "system:kube-scheduler"
        kubeconfig = self._write_kubeconfig(user, self._authority.user(user, []))
        self._run(binaries.SCHEDULER, f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0")

    def _run(self, name: str, *flags: str) -> Guarded:
        command = [str(binaries.binary(name)), *flags]
        process = Guarded.start(name, command, self.directory / f"{name}.log", directory=self.directory)
        self._processes.append(process)
        return process

    def _unready(self) -> str | None:
        return self._refusal("/readyz?verbose")

    def _no_default_account(self) -> str | None:
        return self._refusal("/api/v1/namespaces/default/serviceaccounts/default")

    def _refusal(self, path: str) -> str | None:
        """Why a GET by the administrator did not succeed; None when it did, HopelessError when it never will."""
        context = ssl.create_default_context(cafile=self._authority.certificate)
        context.load_cert_chain(self._administrator.certificate, self._administrator.key)
        try:
            with urllib.request.urlopen(self.url + path, context=context, timeout=5):
                return None
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            if error.code == http.HTTPStatus.UNAUTHORIZED:
                raise HopelessError(f"the administrator's certificate is refused: {said}") from None
            return said
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise HopelessError(f"the server's certificate is refused: {error.reason}") from None
            return str(error)
        except (OSError, http.client.HTTPException) as error:
            return str(error)

    def _write_kubeconfig(self, user: str, pair: KeyPair) -> Path:
        cluster = {"server": self.url, "certificate-authority-data": _base64(self._authority.certificate)}
        credentials = {
            "client-certificate-data": _base64(pair.certificate),
            "client-key-data": _base64(pair.key),
        }
        context = {"cluster": "embedded", "user": user, "namespace": "default"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "embedded",
            "clusters": [{"name": "embedded", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "embedded", "context": context}],
        }
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        return write_private(path, json.dumps(config, indent=1))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
