"""Numbers of eight bits, on request: half of bf16's bytes, and answers that are no longer exactly the model's.

``rows`` is the format, ``switch`` puts it in force between an attention replica and the shards that know it. See
``docs/fp8.md`` for what it costs.
"""
