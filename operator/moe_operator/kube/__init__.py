"""Kubernetes as the operator uses it: an edge of seven calls (``api``), and above it what is done with them.

- ``client``: the edge over HTTP; ``api``: its Protocol, for fakes; ``resources``: kinds and paths; ``errors``.
- ``connection``: one API server, whose ``credentials`` are renewed before they end.
- ``store``: pure; what is known of all MoEDeployments. ``stored``: the edge, with their reads from there.
- ``children``: server-side apply of objects that belong to a MoEDeployment, never of anybody else's.
- ``objects``: the status and the finalizer of a MoEDeployment.
- ``secrets``: Secrets of the user, read only where their label allows it; the operator's own key. ``secret_cache``:
  when one is read again.
- ``events``: one Event per transition.

Called by reconcile; knows nothing of Ray.
"""
