"""The attention side of a model: packed continuous batching over a transformers model that holds no experts.

``request`` and ``errors`` import without torch: the api speaks in these types. ``engine.Engine`` is what an attention
replica runs; ``experts.ExpertsClient`` is what it needs from ``moe_serving.routing``.
"""
