"""What the api's process costs a token, with everything around it but the engine: see ``benchmarks.api``.

``stand_in`` answers in the engine's place by the real protocol, ``alone`` and ``served`` put the real api between it
and a client, by itself and on Ray Serve; ``measure`` asks, and reads the clocks of all processes on the way.
"""
