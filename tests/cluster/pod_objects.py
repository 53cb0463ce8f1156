"""Pods, Services and policies that the tests on nodes apply."""

from typing import Any

Json = dict[str, Any]

PORT = 8080
# What the `restricted` Pod Security Standard asks for.
POD_SECURITY: Json = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def container(image: str, *command: str, **more: Any) -> Json:
    return {
        "name": "main",
        "image": image,
        "command": list(command),
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        **more,
    }


def pod_spec(main: Json) -> Json:
    return {"securityContext": POD_SECURITY, "terminationGracePeriodSeconds": 1, "containers": [main]}


def sleeper(name: str, image: str) -> Json:
    """A pod that commands are run in; its label `app` is its name."""
    spec = pod_spec(container(image, "sleep", "infinity"))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def redis(image: str) -> list[Json]:
    """A pod, and its Service `redis`."""
    labels = {"app": "redis"}
    spec = pod_spec(container(image, "redis-server", "--save", "", "--protected-mode", "no", "--dir", "/tmp"))
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "redis", "labels": labels}, "spec": spec}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "redis"},
        "spec": {"selector": labels, "ports": [{"port": 6379}]},
    }
    return [pod, service]


def web(image: str, replicas: int) -> list[Json]:
    """A Deployment that serves files, and its Service `web` on port 80."""
    labels = {"app": "web"}
    probe = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
    serve = ("python3", "-m", "http.server", str(PORT), "--directory", "/etc")
    spec = pod_spec(container(image, *serve, readinessProbe=probe))
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": PORT}]},
    }
    return [deployment, service]


def let_in(app: str) -> Json:
    """A policy: nobody but pods of that `app` reaches `web`."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "web"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}], "ports": [{"port": PORT}]}],
        },
    }
