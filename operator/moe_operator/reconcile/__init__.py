"""From what a MoEDeployment asks to what Ray runs: observe, plan, apply, status, for one key at a time.

The same pass serves creation, update, resume, polling and recovery: it looks at the whole world each time and knows
nothing of what woke it. Pure modules decide, thin ones do:

- ``world``: what was observed; ``observe`` observes it.
- ``plan``: pure; what shall run, and the next step towards it. ``placing``: pure; the next placement.
- ``conditions``, ``status``: pure; what is told of it. ``transitions``: pure; which Events that makes.
- ``cleanup``: deletion.
- ``reconciler``: the pass; ``queue``, ``backoff``, ``controller``: who is worked when.

Called by ``moe_operator.runtime``.
"""
