"""What each command does: ``deployments`` and ``placements`` read and show, ``decisions`` write.

A command takes a ``Request`` and returns an ``Answer``; ``common`` has both, and how objects are found.
"""
