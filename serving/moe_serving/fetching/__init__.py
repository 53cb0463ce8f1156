"""Checkpoints that are kept elsewhere: fetched once per node, into a cache with a bound.

``source`` and ``files`` are pure; ``cache`` keeps directories; ``hub`` asks Hugging Face, ``folder`` by ``web`` a web
server or an object store, both behind ``store``; ``fetch`` puts them together.
"""
