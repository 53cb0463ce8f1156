"""``moe-serve``: the data plane on one machine, without Kubernetes and without the operator.

Renders the same Serve applications as the operator and hands them to the same REST API: ``desired`` (pure) makes them,
``ray_node`` runs a Ray of its own, ``serve_rest`` talks to it, ``wait`` follows the way to readiness.
"""
