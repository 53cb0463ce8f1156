"""``spec.runtime.rayCluster``: a Ray cluster that is there already, read and written through Serve's REST API."""
