"""All constants of the solver, with their units and the reasons for them. What follows from the cost model is no
constant: see ``problem.Prices`` and ``place.largest_copy``.
"""

from __future__ import annotations

UNLIMITED = 1 << 30
"""Copies: a budget that is none."""

# The split of experts among parts (``split``, ``moves``, ``cover``).
MAX_PARTS = 4
"""Parts of one split: the cost table has 2^(2^parts) rows."""
TOLERANCE = 0.004
"""Relative load above its share that a part may carry at no price: sampled loads are not known better."""
PATIENCE = 100
"""Steps without progress after which a search stops: ten times as many find nothing more on recorded traffic. A quarter
where a few changes are sought, half when visits follow parts, twice as many from each start where experts are few."""
REST, REST_SPREAD = 4, 8
"""Steps that a moved expert rests at least, and by how many that varies, so that a search does not go round."""
NEARLY_FULL = 1.02
"""Load over its share beyond which a part repels an expert more than all its partners there attract it."""
TIE_BREAK = 0.05
"""Part of the price of overload at which moves of equal cost are told apart: by whether a part has too much or too
little."""
QUICK = 1536
"""Sampled sets that a search looks at where a few changes are sought, or many splits follow one another."""
TOP, EXACT = 8, 6
"""Moves remembered per direction, and combinations of moves priced exactly, in each step."""
VISITS_FOLLOW = 1.0
"""How strongly the price of a visit to a part follows how often the part is visited (0: not at all): the busiest
network card is the one that counts."""
EVEN_TOKENS = 8.0
"""Tokens for which an expert's copies are taken to share evenly, beside those that were seen to choose among them."""
SHIFTABLE = 0.5
"""Part of a replicated expert's load that its other copies are counted on to take over in a surge."""

# Few experts: steps are cheap, traps are deep, and one expert more or less is much of a part's load.
FEW = 32
"""Experts up to which a search also starts from random splits, and prices every pair of moves."""
RESTARTED, MOST_RESTARTS = 12288, 96
"""``RESTARTED`` / experts^2 random splits, at most ``MOST_RESTARTS``: 105 of 105 small instances with known optima are
then solved, with half as many 104."""
CAP = 128.0
"""Price of overload, in remote visits per token, of a search that takes the share of a part for a limit."""
DESCENT, MOST_DESCENT, KICKS = 8000, 1000, 3
"""``DESCENT`` / experts placements, at most ``MOST_DESCENT``, are replayed while candidates are improved by single
changes; a local optimum is left by ``KICKS`` random ones. With half as many, six of 400 small instances end 5% to 17%
above the best.
"""
REPLAYED = 2048
"""Sampled sets of each of these replays: about a millisecond."""

# Copies on the shards of a node (``place``, ``level``).
EVEN = 0.002
"""Relative load above the mean at which the fullest shard is even enough."""
SHORTLIST, LEVELLED, SOURCES, SWEEPS = 300, 24, 4, 4
"""Changes remembered by what they promise; of these, computed exactly before the best is made; equally full shards that
load is taken from; passes over all experts in which loads are levelled after a change."""
SWAPS = 200
"""Swaps of copies inside a node for the sake of surges, at most."""

# The choice between candidates (``solver``).
ERRORS = 2.0
"""A candidate must beat a plainer one by so many standard errors of what the busiest link carries: which tokens were
sampled is chance."""
INTERPRETED_SAMPLES = 256
"""Sampled sets per layer where Numba is missing."""
