"""Which copy of an expert computes which row. Pure, vectorised, called once per MoE layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOBODY = -1
"""In a choice: no shard may be asked for this pair."""

_VISITED, _COVERED, _LOCAL = 1e12, 1e9, 1e8
"""What makes a shard preferable, in pairs of load: the token visits it anyway; a pair more that it can serve; it is on
our node. So large that each only decides between equals of the one before."""
_GOLDEN = 0.6180339887498949


def choose_shards(
    experts: NDArray[np.int64], candidates: NDArray[np.bool_], local: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Choose a shard for every pair of a token and one of its experts.

    A token visits as few shards as a greedy set cover finds (each visit costs a row there and a vector back): those it
    must visit come first, then the shard that covers most of what is left. Between equals one on our node is preferred,
    then the one with less load.

    Args:
        experts: ``[T, K]``, the experts of each token.
        candidates: bool ``[T, K, G]``, the shards that may be asked for each pair.
        local: bool ``[G]``, the shards on our node.

    Returns:
        int64 ``[T, K]``: a shard's position, or ``NOBODY``.
    """
    if not len(local):
        return np.full(experts.shape, NOBODY)
    options = candidates.sum(axis=2)
    choice = np.where(options == 1, candidates.argmax(axis=2), NOBODY)
    undecided = np.asarray(options > 1)
    token = np.flatnonzero(undecided.any(axis=1))
    while len(token):
        open_pairs = candidates[token] & undecided[token, :, None]
        visited = (choice[token, :, None] == np.arange(len(local))).any(axis=1)
        best = _best(experts[token, 0], open_pairs.sum(axis=1), visited, local, choice)
        taken = open_pairs[np.arange(len(token)), :, best]
        choice[token] = np.where(taken, best[:, None], choice[token])
        undecided[token] &= ~taken
        token = token[undecided[token].any(axis=1)]
    return choice


def _best(
    experts: NDArray[np.int64],
    covered: NDArray[np.int64],
    visited: NDArray[np.bool_],
    local: NDArray[np.bool_],
    choice: NDArray[np.int64],
) -> NDArray[np.intp]:
    """The next shard of each of ``n`` tokens.

    All tokens are decided at once, so load alone would send all of them to the same shard. A pseudo-random handicap as
    large as what is shared out spreads them in proportion. It depends on an expert, not on the token: rows of one
    expert meet in one place, and its weights are read once.

    Args:
        experts: ``[n]``, one of each token.
        covered: ``[n, G]``, the open pairs that each shard could serve.
        visited: bool ``[n, G]``, the shards that each token visits already.
        choice: ``[T, K]``, what is decided so far.
    """
    shards = len(local)
    load = np.bincount(choice.ravel() + 1, minlength=shards + 1)[1:]
    handicap = np.outer(experts + 1, np.arange(1, shards + 1)) * _GOLDEN % 1.0 * len(experts)
    score = visited * _VISITED + covered * _COVERED + local * _LOCAL - load - handicap
    return np.asarray(np.where(covered > 0, score, -np.inf).argmax(axis=1))
