"""Ray Serve's declarative REST API, ``/api/serve/applications/``: read, merge, write as one. What an answer says
and how our applications are merged into it is pure, and in ``moe_contract.serve``.

- ``client``: the two calls.
- ``cluster``: one serialized reader and writer per Ray address.
"""
