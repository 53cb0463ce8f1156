"""The objects of a deployment that KubeRay runs, as the API server takes them. Pure."""
