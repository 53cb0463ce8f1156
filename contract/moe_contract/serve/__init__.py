"""The configuration of Ray Serve, as ``/api/serve/applications/`` tells and takes it. Pure.

- ``config``: the configuration of one application.
- ``state``: what a GET says.
- ``merge``: our applications into what is there.
"""
