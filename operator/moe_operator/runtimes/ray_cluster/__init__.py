"""``spec.runtime.rayCluster``: a Ray cluster that is there already, read and written through Serve's REST API.

- ``runtime``: the port, for one deployment; ``token``: with which token it asks.
- Pure: ``state``, what Serve tells, in the port's words; ``problems``, what stands in the way; ``render``, what is
  desired, in Serve's; ``orphans``, what is found there of objects that are gone.
- ``serve_rest``: one reader and writer per address.
"""
