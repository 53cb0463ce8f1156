"""From statistics to a placement: from scratch, or from the current one within limits.

Objective: per layer the least modelled seconds of a step, ``max_g C_g + T_dispatch + T_combine`` (``cost``), replayed
with the rule of dispatch that runs (``simulate``). A replay takes a millisecond, so the search minimises a stand-in in
remote visits per token, whose prices come from the same cost model (``problem.Prices``)::

    visits + overload x sum_p max(0, load_p / share_p - 1 - tolerance)
           + surge / P x sum_p max(0, risk x sigma_p - shiftable_p) / share_p

Notation: e, f are experts, g, h shards, p, q parts of a split (P of them, groups of shards); load_p is what p's copies
carry if copies share evenly, share_p what it should carry, sigma_p the deviation of load_p between windows of time,
shiftable_p what copies elsewhere can take over. A *mask* is the set of parts that an expert is in. All shares and
loads sum to 1.

::

    solve:            for each layer, in threads, until the time limit:
                          keep the candidate with the least modelled seconds of
                          the current placement, EPLB-global, place(loads only), place(all that is known);
                          few experts: change single copies as long as modelled seconds fall
    place:            split the nodes; inside each node put copies on shards
                      (one node: split its shards, four ways at a time)
    split, P <= 4:    masks = greedily, heaviest expert first, where its partners are
                      until 100 steps brought nothing:
                          list the cheapest moves of experts between parts; pair those that fit into the slots
                          price the best six pairs exactly; make the best; its experts rest for some steps
                      once more, visits to busy parts costing more; few experts: from random masks as well
                      each part is a problem of its own: what dispatch brings there of loads and of each token
    copies on shards: copies so that none exceeds the room beside others; further ones to the highest load per copy
                      heaviest first onto the emptiest shard; relieve the fullest shard change by change
                      swap copies until a surge is least likely to overfill a shard

- ``limits``: what a plan must respect; ``plan``: what comes out; ``constants``: all of them, with their reasons.
- ``solver``: threads and the clock; ``candidates``: what each layer is chosen from; ``descent``: few experts.
- ``problem``: what is known of a layer and of its parts, and the prices; ``layer``: nodes first, then shards.
- ``split`` with ``moves`` and ``cover`` (the cost of a token as a table lookup): the tabu search.
- ``place`` with ``level``: copies on shards. ``slots``: repairs, budgets, and which slot each copy is written into.

The inner loops of ``split``, ``moves``, ``cover``, ``problem``, ``place`` and ``level`` are compiled where Numba is
installed; ``solver`` imports what leads there only once something is solved.
"""

from moe_placement.solver.limits import Limits
from moe_placement.solver.plan import Plan
from moe_placement.solver.solver import solve

__all__ = ["Limits", "Plan", "solve"]
