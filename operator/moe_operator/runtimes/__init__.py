"""What the operator talks to outside Kubernetes: what deployments run on, and their directories.

``port`` is what ``reconcile`` knows of it. ``ray_cluster`` is behind it, and ``directory``, which asks any deployment's
directory for its report. Thin modules do the I/O (``http.client``, ``directory``, ``ray_cluster.serve_rest``); where to
connect, what an answer says and what to write is decided by pure ones.
"""
