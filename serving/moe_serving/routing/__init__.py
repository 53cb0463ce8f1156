"""The way from attention to expert shards and back: which copy of an expert computes which row.

``client.RemoteExperts`` is the engine's ``ExpertsClient``. Under it: ``table`` (who holds what), ``choosers`` (which
copies can be asked), ``layer`` (one layer cut into requests), ``dispatch`` (sends, gathers, tries elsewhere),
``routes`` and ``links`` (the table in force and its connections). ``recorder`` keeps what was routed in ``block`` and
counts it into a ``window`` for each table; ``sync`` keeps the table fresh and delivers windows; ``verify`` recomputes
every layer and compares bit for bit. ``table`` and ``window`` import no torch.
"""
