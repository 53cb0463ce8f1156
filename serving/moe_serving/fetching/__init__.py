"""Checkpoints that are kept elsewhere: fetched once per node, into a cache with a bound.

``source``, ``files`` and ``listing`` are pure; ``cache`` keeps directories, behind ``locks``; ``hub`` asks Hugging
Face, ``folder`` by ``web`` a web server or an object store, both behind ``store``; ``outline`` has what tells of files
before they come, and ``asking`` whether they would come; ``keeper`` puts them together for one checkpoint, and
``fetch`` is what all others call.
"""
