"""From what a MoEDeployment asks to what runs: observe, decide, apply, status, for one key at a time.

The same pass serves creation, update, resume, polling and recovery: it looks at the whole world each time and knows
nothing of what woke it, nor of what deployments run on but ``runtimes.port``. Pure modules decide, thin ones do:

- ``world``: what was observed; ``observe`` observes it.
- ``intent``: pure; what shall run, and the next step towards it. ``placing``: pure; the next placement. ``decider``:
  where an intent is computed, here or in the worker process.
- ``conditions``, ``settlement``, ``status``, ``failure``: pure; what is told of it. ``telling``: pure; when that is
  written. ``transitions``: pure; which Events that makes.
- ``cleanup``: deletion.
- ``reconciler``: the pass; ``queue``, ``backoff``, ``controller``: who is worked when.

Called by ``moe_operator.process``.
"""
