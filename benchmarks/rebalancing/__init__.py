"""Figures of migrations, and of placements that follow the traffic, on the data plane without Ray.

``stage`` is that plane: shards in processes of their own, a directory, an engine; ``streams`` asks the engine as the
load generator asks a server; ``models`` are what is served; ``exchange`` makes placements to migrate to. One module
for each figure, with a function ``rows``; ``sizes`` says how much of everything.
"""
