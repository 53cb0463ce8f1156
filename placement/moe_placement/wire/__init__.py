"""What travels between operator and data plane, as pydantic types. Both import it; neither imports the other.

- ``model``: what the model is, or why it cannot be served (data plane to operator).
- ``codec``: compact text forms of arrays (placements, loads).
- ``applications``: arguments and ``user_config`` of the Serve applications, and how they are rendered (towards Ray).
- ``report``: what the directory answers on ``/internal/report`` (data plane to operator).
"""
