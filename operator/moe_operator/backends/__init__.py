"""What the operator talks to outside Kubernetes: Ray's Serve REST API and the directory of each deployment.

Thin modules do the I/O (``http``, ``resolver``, ``serve_rest.client``, ``directory``); where to connect, what an answer
says and what to write is decided by pure ones (``addresses``, ``report``; ``moe_contract.serve`` for Serve's words).
Called by ``moe_operator.reconcile`` only.
"""
