"""The way from attention to expert shards and back: which copy of an expert computes which row.

``client.RemoteExperts`` is the engine's ``ExpertsClient``. Under it: ``table`` (who holds what), ``choice`` (pure:
which copy), ``layer`` (one layer cut into requests), ``dispatch`` (sends, gathers, tries elsewhere), ``routes`` and
``links`` (the table in force and its connections), ``counters``. ``sync`` keeps the table fresh and delivers the
counts; ``verify`` recomputes every layer and compares bit for bit. ``table`` and ``counters`` import no torch.
"""
