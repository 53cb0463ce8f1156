"""The directory: knows which shard holds which experts, brings reality to the target placement, gathers statistics.

``actions`` (pure) says which come next, ``sources`` (pure) where copies come from; ``target`` is what is wanted,
``monitor`` watches what is; ``publication`` is the table in force, ``leases`` who still routes by an older one;
``traffic`` sums up counts, ``statistics`` keeps what whoever plans asks for. ``directory.Directory`` runs the loop
around them. ``messages`` is what attention replicas say to it, ``apis`` what api processes do, and ``ledger`` what
these have counted together. If the directory is down, tokens keep flowing by the last table; when it comes back it asks
the shards. No torch here.
"""
