"""What the API server says of rights."""

import json

from moe_dev.kube import Kubectl


def can(kube: Kubectl, user: str, verb: str, group: str, resource: str, namespace: str) -> bool:
    """Whether ``user`` may; ``resource`` is ``plural``, ``plural/subresource`` or ``plural:name``."""
    plural, _, name = resource.partition(":")
    plural, _, subresource = plural.partition("/")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": plural,
        "subresource": subresource,
        "name": name,
        "namespace": namespace,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    answer = json.loads(kube.run("create", "-f", "-", "-o", "json", text=json.dumps(review)))
    return bool(answer["status"]["allowed"])
