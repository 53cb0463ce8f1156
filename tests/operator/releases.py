"""Releases of the chart on a control plane without nodes, where this process runs what a node would run."""

import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_dev.helm import CHART, Helm
from moe_dev.kube import Kubectl
from moe_dev.operator_process import OperatorProcess

JsonObject = dict[str, Any]


@dataclass
class Release:
    """One release; `operator` runs the command of its Deployment with the rights of its ServiceAccount."""

    helm: Helm
    kubectl: Kubectl
    namespace: str
    name: str = field(default_factory=lambda: f"moe-operator-{secrets.token_hex(2)}")

    def install(self, *arguments: str, **values: Any) -> None:
        self.helm.run("install", *self._which(), str(CHART), *arguments, values=values)

    def upgrade(self, chart: Path = CHART, *arguments: str, **values: Any) -> None:
        self.helm.run("upgrade", *self._which(), str(chart), *arguments, values=values)

    def uninstall(self, *arguments: str) -> str:
        return self.helm.run("uninstall", *self._which(), *arguments)

    def rollback(self, revision: int) -> str:
        return self.helm.run("rollback", self.name, str(revision), f"--namespace={self.namespace}")

    def objects(self) -> list[JsonObject]:
        """What Helm has applied."""
        kinds = "deployments,roles,clusterroles,serviceaccounts,poddisruptionbudgets,networkpolicies,configmaps,crds"
        selector = f"app.kubernetes.io/instance={self.name}"
        found = self.kubectl.run("get", kinds, "--all-namespaces", "-l", selector, "-o", "json")
        items: list[JsonObject] = json.loads(found)["items"]
        return items

    def rules(self, kind: str) -> list[JsonObject]:
        """Of all Roles or ClusterRoles of the operator's own."""
        own = (
            each for each in self.objects() if each["kind"] == kind and each["metadata"]["name"].startswith(self.name)
        )
        return [rule for each in own for rule in each["rules"]]

    def pod(self, of: str = "") -> JsonObject:
        """Template of the pods of its Deployment, or of another one, by what its name has behind the release's."""
        found = self.kubectl.get("deployment", self.name + of, self.namespace)
        assert found is not None, f"no deployment {self.name}{of} in {self.namespace}"
        template: JsonObject = found["spec"]["template"]
        return template

    def start_operator(self, directory: Path) -> OperatorProcess:
        pod = self.pod()["spec"]
        command, *options = pod["containers"][0]["args"]
        assert command == "run"
        options = [option for option in options if not option.startswith("--bind=")]
        return OperatorProcess.start(
            self.kubectl, directory, *options, namespace=self.namespace, account=pod["serviceAccountName"]
        )

    @contextmanager
    def node(self, kind: str, name: str, directory: Path) -> Iterator[list[str]]:
        """Runs the pod `name`, or that of the Job `name`, as soon as it is there; yields what it has written."""
        node = Node(self.kubectl, self.namespace, kind, name, directory)
        thread = threading.Thread(target=node.run)
        thread.start()
        try:
            yield node.written
        finally:
            node.over = True
            thread.join(120)

    def _which(self) -> tuple[str, str]:
        return self.name, f"--namespace={self.namespace}"


@dataclass
class Node:
    """Runs one pod's command here, once, with the rights of its ServiceAccount, and tells how it ended."""

    kubectl: Kubectl
    namespace: str
    kind: str
    name: str
    directory: Path
    written: list[str] = field(default_factory=list)
    over: bool = False

    def run(self) -> None:
        while not self.over:
            found = self.kubectl.get(self.kind, self.name, self.namespace)
            if found is not None and not found.get("status", {}).get("conditions"):
                self._finish(self._run(found["spec"] if self.kind == "pod" else found["spec"]["template"]["spec"]))
                return
            time.sleep(0.2)

    def _run(self, pod: JsonObject) -> int:
        kubeconfig = self.kubectl.service_account_kubeconfig(
            self.namespace, pod["serviceAccountName"], self.directory / f"{self.name}.kubeconfig"
        )
        arguments = [self._mounted(pod, argument) for argument in pod["containers"][0]["args"]]
        command = [sys.executable, "-m", "moe_operator", *arguments, f"--kubeconfig={kubeconfig}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.written += [ended.stdout, ended.stderr]
        return ended.returncode

    def _mounted(self, pod: JsonObject, argument: str) -> str:
        """With the path of a file that a ConfigMap mounts as one of this machine."""
        for volume in pod["volumes"]:
            (path,) = (m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume["name"])
            if "configMap" in volume and f"={path}/" in argument:
                mounted = self.kubectl.get("configmap", volume["configMap"]["name"], self.namespace)
                assert mounted is not None, f"{self.name} mounts a ConfigMap that is not there"
                for name, text in mounted["data"].items():
                    (self.directory / name).write_text(text)
                argument = argument.replace(f"={path}/", f"={self.directory}/")
        return argument

    def _finish(self, code: int) -> None:
        if self.kind == "pod":
            status: JsonObject = {"phase": "Failed" if code else "Succeeded"}
        else:
            status = _job_status(code)
        self.kubectl.run(
            "patch", self.kind, self.name, f"--namespace={self.namespace}", "--subresource=status", "--type=merge",
            f"--patch={json.dumps({'status': status})}",
        )  # fmt: skip


def _job_status(code: int) -> JsonObject:
    """As the API server asks for it of a Job that is over."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kinds = ("FailureTarget", "Failed") if code else ("SuccessCriteriaMet", "Complete")
    reason = {"reason": "BackoffLimitExceeded"} if code else {}
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": now, **reason} for kind in kinds]
    counted = {"failed": 1} if code else {"succeeded": 1, "completionTime": now}
    return {"startTime": now, "conditions": conditions, **counted}
