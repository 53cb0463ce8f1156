"""An expert shard: holds some experts of a model and computes them for rows that attention sends.

``shard.Shard`` is the whole of it without Ray: ``pool`` (weights, in slots of ``slab``), ``loader`` (fills it in the
background), ``server`` (one thread, many connections) and ``compute``. ``description`` and ``messages`` are what others
see of it; ``description`` imports no torch.
"""
