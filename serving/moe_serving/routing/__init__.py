"""The way from attention to expert shards and back: which copy of an expert computes which row.

``client.RemoteExperts`` is the engine's ``ExpertsClient``. Under it: ``table`` (who holds what), ``choosers`` (which
copies can be asked), ``layer`` (one layer cut into requests), ``dispatch`` (sends, gathers, tries elsewhere),
``routes`` and ``links`` (the table in force and its connections). ``recorder`` keeps what was routed as ``notes``, then
in a ``block``, and counts it into a ``window`` for each table; ``gatherer`` makes the brain's statistics of it,
``trace_files`` files where they are asked for. ``sync`` keeps the table fresh and delivers windows, and statistics by
an ``exchange``; ``verify`` recomputes every layer and compares bit for bit. Pairs that ``moe_serving.adaptive`` leaves
out are ``NO_EXPERT`` here. What the directory imports of it needs no torch.
"""
