"""Ray Serve's declarative REST API, ``/api/serve/applications/``: read, merge, write as one.

- ``state``: what a GET says.
- ``merge``: pure; our applications into what is there.
- ``client``: the two calls.
- ``cluster``: one serialized reader and writer per Ray address.
"""
