"""What the operator talks to outside Kubernetes: Ray's Serve REST API and the directory of each deployment.

Thin modules do the I/O (``http``, ``serve_rest.client``, ``directory``); what to write is decided by pure ones
(``addresses``, ``serve_rest.merge``). Called by ``moe_operator.reconcile`` only.
"""
