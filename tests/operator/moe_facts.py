"""A small model as a directory tells of it, for tables and fakes."""

from moe_contract.model import ModelFacts

FACTS = ModelFacts(
    digest="sha256:1",
    architecture="Mixtral",
    layers=2,
    experts=8,
    top_k=2,
    bytes_per_expert=100,
    dtype="float32",
    max_context=512,
)
