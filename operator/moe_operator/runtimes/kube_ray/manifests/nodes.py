"""On which nodes pods may run, and what Ray is told of these nodes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from moe_contract.resources import Resources
from moe_operator.kube.api import Json

LABEL_ACCELERATOR = "ray.io/accelerator-type"
"""Of nodes, where somebody wrote it by hand: the kind as Ray calls it."""
LABEL_PRODUCT = "nvidia.com/gpu.product"
"""Of nodes, where NVIDIA's GPU feature discovery runs: the product as its driver calls it."""
_H100 = ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe", "NVIDIA-H100-NVL")
_A100_40G = ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB", "A100-SXM4-40GB", "A100-PCIE-40GB")
_A100_80G = ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe")
PRODUCTS: Mapping[str, tuple[str, ...]] = {
    "A10": ("NVIDIA-A10",),
    "A10G": ("NVIDIA-A10G",),
    "A100": (*_A100_40G, *_A100_80G),
    "A100-40G": _A100_40G,
    "A100-80G": _A100_80G,
    "B200": ("NVIDIA-B200",),
    "H20": ("NVIDIA-H20",),
    "H100": _H100,
    "H200": ("NVIDIA-H200", "NVIDIA-H200-NVL"),
    "L4": ("NVIDIA-L4",),
    "L40S": ("NVIDIA-L40S",),
    "T4": ("Tesla-T4",),
    "V100": ("Tesla-V100-SXM2-16GB", "Tesla-V100-SXM2-32GB", "Tesla-V100-PCIE-16GB", "Tesla-V100-PCIE-32GB"),
}
"""Values of ``LABEL_PRODUCT`` by Ray's kind. GPUs that are cut or shared have other names, and are not meant."""


@dataclass(frozen=True, slots=True)
class _Values:
    """What a selector in Ray's syntax says: ``a``, ``!a``, ``in(a, b)`` or ``!in(a, b)``."""

    values: tuple[str, ...]
    are_wanted: bool

    @classmethod
    def parse(cls, selector: str) -> _Values:
        words = selector.removeprefix("!")
        inner = words.removeprefix("in(").removesuffix(")") if words.startswith("in(") else words
        return cls(tuple(word.strip() for word in inner.split(",")), not selector.startswith("!"))


def node_affinity(wanted: Resources) -> Json | None:
    """A pod's, by which it comes only to nodes that have what its process asks Ray for; None where any will do.

    A kind of accelerator is told by either label, so there is a term for each that may tell it.
    """
    labels = [_expression(key, _Values.parse(value)) for key, value in sorted(wanted.label_selector.items())]
    terms = [[*labels, kind] for kind in _kinds(wanted.accelerator)] if wanted.accelerator else [labels]
    if not any(terms):
        return None
    required = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": required}


def ray_labels(wanted: Resources) -> dict[str, str]:
    """Labels that Ray finds on the pods of nodes chosen so, such that its own choice takes them: of several values the
    first, and of those that are not wanted none."""
    read = ((key, _Values.parse(value)) for key, value in wanted.label_selector.items())
    return {key: selector.values[0] for key, selector in read if selector.are_wanted}


def _kinds(accelerator: str) -> Iterator[Json]:
    yield _in(LABEL_ACCELERATOR, [accelerator])
    if products := PRODUCTS.get(accelerator):
        yield _in(LABEL_PRODUCT, products)


def _expression(key: str, selector: _Values) -> Json:
    return {"key": key, "operator": "In" if selector.are_wanted else "NotIn", "values": list(selector.values)}


def _in(key: str, values: Iterable[str]) -> Json:
    return _expression(key, _Values(tuple(values), True))
