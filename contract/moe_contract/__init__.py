"""What operator and data plane share. Both import it; neither imports the other.

- ``model``: what the model is, or why it cannot be served (data plane to operator).
- ``report``: what the directory answers on ``/internal/report`` (data plane to operator).
- ``load``: what of it the status, and clients of the API, are told of busy shards and experts.
- ``applications``: names, arguments and ``user_config`` of the Serve applications (towards the data plane, by Ray).
- ``rendering``: what one deployment wants, as entries of Serve's configuration.
- ``serve``: what Serve's REST API tells, and how our applications are merged into that. Pure: each plane has an HTTP
  client of its own.
- ``pods``: what the operator writes into pods for processes of the data plane.
- ``base``, ``sizes``: how large any of it may be.
- ``local_addresses``: where neither plane connects because a user says so.

Arrays travel as text or bytes that the brain packs (``moe_placement.encoding``); the types here carry them.
"""
