"""How pods reach the model that the spec names: what is mounted in those that read it. Pure."""

from __future__ import annotations

from moe_operator.api import MoEDeployment
from moe_operator.api.names import MODEL_TOKEN
from moe_operator.kube.api import Json

SECRET_FOLDER = "/var/run/secrets/moe-operator.io/model-source"
_SECRET, _MODEL = "model-source-secret", "model-source"


def mount_model(moe: MoEDeployment, pod: Json) -> None:
    """Into a pod's spec with one container: a claim or an image with the model, and what lets in where it is fetched.

    What lets in is a file: what processes have in their environment is in every dump of it, and what is changed in the
    Secret is there without another pod.
    """
    source, (container,) = moe.spec.model.source, pod["containers"]
    if source.pvc is not None:
        _mount(pod, source.pvc.mounted_at, persistentVolumeClaim={"claimName": source.pvc.claim_name, "readOnly": True})
    if source.image is not None:
        image = {"reference": source.image.reference, "pullPolicy": source.image.pull_policy}
        _mount(pod, source.image.mounted_at, image=image)
    named = source.secret
    if named is None:
        return
    pod["volumes"].append({"name": _SECRET, "secret": {"secretName": named.name, "defaultMode": 0o440}})
    container["volumeMounts"].append({"name": _SECRET, "mountPath": SECRET_FOLDER, "readOnly": True})
    if source.hugging_face is not None:
        container["env"].append({"name": "HF_TOKEN_PATH", "value": f"{SECRET_FOLDER}/{MODEL_TOKEN}"})
    else:
        container["env"].append({"name": "MOE_MODEL_SECRET", "value": SECRET_FOLDER})


def _mount(pod: Json, path: str, **volume: Json) -> None:
    (container,) = pod["containers"]
    pod["volumes"].append({"name": _MODEL, **volume})
    container["volumeMounts"].append({"name": _MODEL, "mountPath": path, "readOnly": True})
