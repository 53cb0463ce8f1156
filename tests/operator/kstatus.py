"""What Flux, Helm 4, kpt and ``kubectl`` plug-ins make of an object: kstatus' algorithm for custom resources."""

from typing import Any


def kstatus(thing: dict[str, Any]) -> str:
    """As sigs.k8s.io/cli-utils pkg/kstatus/status, generic.go and core.go."""
    status, generation = thing.get("status", {}), thing["metadata"]["generation"]
    if thing["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration", generation) != generation:
        return "InProgress"
    conditions = {one["type"]: one for one in status.get("conditions", [])}
    for kind, result in (("Reconciling", "InProgress"), ("Stalled", "Failed")):
        if conditions.get(kind, {}).get("status") == "True":
            return result
    ready = conditions.get("Ready")
    if ready and ready["status"] != "True":
        return "InProgress"
    return "Current"
