"""Work of size, done in one process of its own: niced, bounded in memory and time, replaced when it breaks down.

Python computes with one thread at a time: whatever takes long in the operator's own process stops its probes, its
Lease and every other tenant. ``process`` is what the operator sees, ``child`` is that process, ``jobs`` all that it
does, ``turns`` whose turn it is. What is small is computed where it is needed: it waits for nobody who is large.
"""
