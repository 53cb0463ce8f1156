"""What the api's process costs a token, with everything around it but the engine: see ``benchmarks.api``.

``stand_in`` answers in the engine's place by the real protocol, ``alone`` puts the real api between it and a client,
``measure`` asks, and reads the clocks of both processes.
"""
