"""Whole expert sets that reproduce the loads and pair counts of a real model whose sets were not published.

A log-linear latent model: token logits are a_e + v_e . x with x standard normal, so that two experts' expected lift
is about exp(v_i . v_j). V comes from the leading eigenvectors of the log-lift matrix, a is adjusted until the generated
loads are the real ones. The published counts hold neither prompts nor time: how much of x belongs to the prompt is a
parameter, not a fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import MOST_SEED, instance, real, whole
from moe_placement.errors import InvalidTraceError
from moe_placement.traces.archive import read_arrays, scalar
from moe_placement.traces.generate import sample_sets
from moe_placement.traces.trace import Trace

_SHARPNESS = 2.5
"""Top-k selection among noisy logits blunts lifts; with vectors scaled by this the published pairs of Qwen3-30B-A3B are
met best (correlation 0.96-0.99 over pairs, 73-83% of their mass: real routing has more structure still)."""


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Loads and pair counts of a model.

    Attributes:
        tokens: tokens counted.
        top_k: experts per token.
        heat: int64 ``[layers, experts]``, tokens per expert.
        pairs: int64 ``[n, 4]``: layer, expert, other expert, tokens that chose both (only pairs the source published).
        min_lift: pairs below this lift were not published.
    """

    tokens: int
    top_k: int
    heat: NDArray[np.int64]
    pairs: NDArray[np.int64]
    min_lift: float


def load_pair_counts(path: str | Path) -> PairCounts:
    """Read the ``.npz`` that ``traces/README.md`` describes.

    Raises:
        InvalidTraceError: not such a file, or counts that cannot be.
    """
    arrays = read_arrays(path)
    tokens, top_k = (int(scalar(path, arrays, name, "iu")) for name in ("tokens", "top_k"))
    lift = float(scalar(path, arrays, "min_lift", "f"))
    heat, pairs = (arrays.get(name, np.zeros(0)) for name in ("heat", "pairs"))
    if heat.ndim != 2 or pairs.shape[1:] != (4,) or heat.dtype.kind not in "iu" or pairs.dtype.kind not in "iu":
        raise InvalidTraceError(f"{path}: heat must be integers [layers, experts], pairs integers [n, 4]")
    ends = np.array([*heat.shape, heat.shape[1]])
    if heat.min(initial=0) < 0 or pairs.min(initial=0) < 0 or (pairs[:, :3] >= ends).any():
        raise InvalidTraceError(f"{path}: a negative count, or a pair beyond the {ends[0]} layers x {ends[1]} experts")
    if not heat.any(axis=1).all() or not len(heat):
        raise InvalidTraceError(f"{path}: heat needs layers, and tokens in each; it is {heat.sum(axis=1).tolist()}")
    if tokens < 1 or not 1 <= top_k <= ends[1] or not np.isfinite(lift):
        raise InvalidTraceError(f"{path}: tokens {tokens}, top_k {top_k}, min_lift {lift}")
    return PairCounts(tokens, top_k, heat.astype(np.int64), pairs.astype(np.int64), lift)


def fitted_trace(
    counts: PairCounts, tokens: int, layers: int, rank: int = 24, prompt_share: float = 0.5, prompt_tokens: int = 64,
    seed: int = 0,
) -> Trace:  # fmt: skip
    """A trace of ``layers`` of the model's layers, evenly picked, with its loads and about its pair counts.

    Raises:
        InvalidTraceError: a parameter that cannot be.
    """
    instance(InvalidTraceError, "counts", counts, PairCounts)
    for name, value in (("tokens", tokens), ("layers", layers), ("prompt_tokens", prompt_tokens)):
        whole(InvalidTraceError, name, value, 1)
    whole(InvalidTraceError, "rank", rank, 1, counts.heat.shape[1])
    real(InvalidTraceError, "prompt_share", prompt_share, most=1)
    random = np.random.default_rng(whole(InvalidTraceError, "seed", seed, most=MOST_SEED))
    experts = counts.heat.shape[1]
    prompt = np.arange(tokens) // prompt_tokens
    picked = np.linspace(0, len(counts.heat) - 1, layers).round().astype(int)
    ids = np.empty((tokens, layers, counts.top_k), dtype=np.int16)
    for number, layer in enumerate(picked):
        vectors = _vectors(counts, int(layer), rank)
        of_prompt = random.normal(size=(int(prompt.max()) + 1, rank))[prompt]
        topic = np.sqrt(prompt_share) * of_prompt + np.sqrt(1 - prompt_share) * random.normal(size=(tokens, rank))
        affinity = topic @ vectors.T
        bias = _fit_bias(affinity, counts.heat[layer] / counts.tokens, counts.top_k, random)
        ids[:, number] = sample_sets(affinity + bias, counts.top_k, random)
    return Trace(ids, experts, prompt.astype(np.int32), np.zeros(tokens, dtype=np.int16))


def _vectors(counts: PairCounts, layer: int, rank: int) -> NDArray[np.float64]:
    """float64 ``[experts, rank]``: v with v_i . v_j near the log-lift of the published pairs.

    Pairs that were not published had too little lift: they get the log-lift that keeps each row's expected number of
    partners at k - 1, as it must be.
    """
    heat = counts.heat[layer].astype(np.float64)
    rate = np.maximum(heat, 0.5) / counts.tokens
    of_layer = counts.pairs[counts.pairs[:, 0] == layer]
    row, column, both = of_layer[:, 1], of_layer[:, 2], of_layer[:, 3].astype(np.float64)
    expected = rate[:, None] * rate[None, :] * counts.tokens
    known = np.zeros_like(expected, dtype=bool)
    known[row, column] = known[column, row] = True
    count = np.zeros_like(expected)
    count[row, column] = count[column, row] = both
    rest_wanted = np.maximum(heat * (counts.top_k - 1) - count.sum(axis=1), 0.02 * heat + 1)
    rest_expected = np.where(known, 0, expected).sum(axis=1) - rate**2 * counts.tokens
    row_lift = np.clip(rest_wanted / np.maximum(rest_expected, 1e-9), 0.05, counts.min_lift)
    lift = np.where(known, (count + 1) / (expected + 1), np.sqrt(row_lift[:, None] * row_lift[None, :]))
    log_lift = np.log(lift)
    np.fill_diagonal(log_lift, np.abs(log_lift).mean(axis=1))
    weight = np.minimum(1.0, np.sqrt(heat / heat.mean()))  # rare experts' lifts are mostly noise
    values, columns = np.linalg.eigh(log_lift * weight[:, None] * weight[None, :])
    leading = np.argsort(values)[::-1][:rank]
    return np.asarray(_SHARPNESS * columns[:, leading] * np.sqrt(np.maximum(values[leading], 0)), dtype=np.float64)


def _fit_bias(
    affinity: NDArray[np.float64], rate: NDArray[np.float64], top_k: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """float64 ``[experts]``: biases under which experts are chosen at ``rate``, by damped multiplicative updates."""
    sample = affinity[random.integers(len(affinity), size=min(len(affinity), 4096))]
    wanted = np.maximum(rate, 1e-5)
    bias = np.log(wanted)
    for _ in range(30):
        chosen = sample_sets(sample + bias, top_k, random)
        got = np.bincount(chosen.ravel(), minlength=len(rate)) / len(sample)
        bias += 0.7 * np.clip(np.log(wanted / np.maximum(got, 0.5 / len(sample))), -2, 2)
    return bias
