"""A real Kubernetes control plane for tests and the demo: etcd, kube-apiserver and controllers that clean up.

`with ControlPlane.start(directory) as plane:` brings one up on a free port of loopback; several run side by side.
RBAC is on: `plane.kubectl` is an administrator, `plane.user` and `Kubectl.service_account_kubeconfig` are anybody
else. Nothing of it outlives the process that started it. There are no nodes: a Pod stays Pending.
"""

import base64
import http
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
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
# Every write with who did it; reads and the control plane's own work are left out.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager"]},
        {"level": "None", "userGroups": ["system:masters", "system:serviceaccounts:kube-system"]},
        {"level": "Metadata"},
    ],
}
# The sockets of etcd lie in its working directory: a relative path stays below the 107 bytes a socket may have.
ETCD_CLIENTS = "unix://etcd.sock"
ETCD_PEERS = "unix://peers.sock"


class ControlPlane:
    """One running control plane; `stop` or the end of the `with` block ends it."""

    def __init__(self, directory: Path, port: int, authority: Authority) -> None:
        self.directory = directory
        self.url = f"https://127.0.0.1:{port}"
        # One JSON line per write by a user or ServiceAccount that is not the control plane's own.
        self.audit_log = directory / "audit.log"
        self._port = port
        self._authority = authority
        self._processes: list[Guarded] = []
        self._administrator = authority.user("administrator", ["system:masters"])
        self.kubeconfig = self._write_kubeconfig("administrator", self._administrator)
        self.kubectl = Kubectl(binaries.binary(binaries.KUBECTL), self.kubeconfig)

    @classmethod
    def start(cls, directory: Path, *, controllers: bool = True) -> Self:
        """Start one in `directory`, which is made 0700, and wait until it works; ProcessError says what did not.

        Without `controllers` namespaces stay when they are deleted, and children when their owner is.
        """
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        plane = cls(directory, free_ports(1)[0], Authority(directory))
        try:
            plane._start_etcd()
            plane._start_apiserver()
            if controllers:
                plane._start_controllers()
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
        server = self._authority.server()
        signing_key = self._authority.signing_key()
        policy = write_private(self.directory / "audit-policy.json", json.dumps(AUDIT_POLICY))
        process = self._run(
            binaries.APISERVER,
            f"--etcd-servers={ETCD_CLIENTS}",
            "--bind-address=127.0.0.1",
            # Nobody reaches the API through the Service "kubernetes", and a machine may have only its loopback.
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self._port}",
            f"--tls-cert-file={server.certificate}",
            f"--tls-private-key-file={server.key}",
            f"--client-ca-file={self._authority.certificate}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={signing_key}",
            f"--service-account-signing-key-file={signing_key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            "--shutdown-delay-duration=0s",
        )
        process.wait_until(f"{self.url}/readyz", self._unready, READY_SECONDS, beside=self._processes)

    def _start_controllers(self) -> None:
        manager = self._authority.user("system:kube-controller-manager", [])
        process = self._run(
            binaries.CONTROLLER_MANAGER,
            f"--kubeconfig={self._write_kubeconfig('system:kube-controller-manager', manager)}",
            f"--controllers={','.join(CONTROLLERS)}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
        )
        process.wait_until("the controllers", self._no_default_account, READY_SECONDS, beside=self._processes)

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
