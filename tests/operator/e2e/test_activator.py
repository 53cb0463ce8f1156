"""An operator and an activator, each with the rights that the chart gives it, on an API server without nodes."""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from announcements import KEY, OTHER
from audit import asked, entries, granted
from kube_ray_objects import IMAGE, install_kube_ray_kinds
from moe_objects import Objects
from releases import Release

from moe_dev.controlplane import ControlPlane
from moe_dev.helm import Helm
from moe_dev.kube import Kubectl
from moe_dev.processes import Guarded
from moe_serving.standalone.ports import free_ports

pytestmark = pytest.mark.e2e

POD = "10.9.9.9"
"""Where the activator would be, had it a pod."""


@pytest.fixture
def release(controlplane: ControlPlane, installed: Kubectl, namespace: str, tmp_path: Path) -> Iterator[Release]:
    """With an operator that runs."""
    install_kube_ray_kinds(installed)
    helm = Helm(controlplane.kubeconfig)
    made = Release(helm, installed, namespace)
    made.install(
        crds={"enabled": False}, userRoles={"create": False}, namespaces=[namespace], activator={"enabled": True}
    )
    operator = made.start_operator(tmp_path)
    yield made
    operator.stop()


@dataclass
class Activator:
    """Its process, and who it is to the API server."""

    process: Guarded
    url: str
    namespace: str
    account: str

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.account}"

    def ask(self, path: str, key: str) -> tuple[int, str]:
        request = urllib.request.Request(f"{self.url}{path}", b"{}", {"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(request, timeout=150) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def activator(release: Release, installed: Kubectl, tmp_path: Path) -> Iterator[Activator]:
    account = release.pod("-activator")["spec"]["serviceAccountName"]
    kubeconfig = installed.service_account_kubeconfig(release.namespace, account, tmp_path / "activator.kubeconfig")
    ports = free_ports(2)
    options = [f"--listen=127.0.0.1:{ports[0]}", f"--bind=127.0.0.1:{ports[1]}", f"--namespace={release.namespace}"]
    command = [sys.executable, "-m", "moe_operator.activator.main", *options]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    process = Guarded.start("activator", command, tmp_path / "activator.log", environment=environment)
    ready = f"http://127.0.0.1:{ports[1]}/ready"
    process.wait_until(ready, lambda: unready(ready), 60.0)
    yield Activator(process, f"http://127.0.0.1:{ports[0]}", release.namespace, account)
    process.stop()


def unready(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return None
    except OSError as error:
        return str(error)


def endpoints_of_the_activator(release: Release) -> dict:
    """As Kubernetes makes them for its Service."""
    name = f"{release.name}-activator"
    labels = {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-abcde", "namespace": release.namespace, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [POD], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
    }


def test_a_key_wakes_it_and_the_activators_death_loses_what_it_held(
    release: Release, activator: Activator, installed: Kubectl, controlplane: ControlPlane
) -> None:
    objects = Objects(installed, release.namespace)
    path = f"/{release.namespace}/tiny/v1/completions"
    installed.apply(endpoints_of_the_activator(release))
    objects.secret("keys", "api-keys", one=KEY)
    objects.apply(
        "tiny",
        {
            "model": {"source": {"path": "models/tiny"}},
            "experts": {"shards": 0},
            "sleep": {"afterIdle": "30m"},
            "serving": {"apiKeysSecretRef": {"name": "keys"}},
            "runtime": {"kubeRay": {"image": IMAGE}},
        },
    )

    def led_to() -> list[str]:
        found = installed.get("endpointslice", "tiny-moe-activation", release.namespace) or {}
        return [each["addresses"][0] for each in found.get("endpoints") or ()]

    objects.wait("requests to be led to the activator", lambda: led_to() == [POD])
    objects.wait_condition("tiny", "SleepsWhenIdle", "True", "AsExpected")
    objects.wait("the activator to know it", lambda: activator.ask(path, "")[0] == 401)
    assert json.loads(activator.ask(path, OTHER)[1])["error"]["code"] == "invalid_api_key"
    assert shards(objects) == 0

    with ThreadPoolExecutor() as pool:
        held = pool.submit(activator.ask, path, KEY)
        objects.wait("the deployment to be woken", lambda: shards(objects) == 1)
        objects.wait("the RayService", lambda: bool(installed.get("rayservice", "tiny", release.namespace)))
        assert not held.done()
        assert led_to() == [POD], "it does not serve yet"
        activator.process.kill()
        assert isinstance(held.exception(timeout=30), OSError)
    assert shards(objects) == 1

    log = entries(controlplane, activator.user)
    assert [each["requestURI"] for each in log if each["responseStatus"]["code"] == 403] == []
    assert {asked(each) for each in log} == granted(
        installed.get("role", activator.account, release.namespace)["rules"]
    )


def shards(objects: Objects) -> int:
    return int((objects.get("tiny") or {})["spec"]["experts"]["shards"])
