"""Synthetic traffic: communities of experts, Zipf popularity, drift and bursts, all from one seed.

A token's set is the top k of log-popularity + affinity to the token's topic + Gumbel noise, which samples experts
without replacement in proportion to the exponentials (Plackett and Luce). Topics are latent Gaussian vectors with a
part per prompt and a part per token: experts with like vectors are chosen together, and surge together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import MOST_EXPERTS, MOST_SEED, instance, real, whole
from moe_placement.errors import InvalidTraceError
from moe_placement.traces.trace import Trace


@dataclass(frozen=True, slots=True)
class Traffic:
    """Parameters of ``generate_trace``.

    Raises:
        InvalidTraceError: one that cannot be.

    Attributes:
        tokens, layers, experts, top_k: the trace's shape.
        prompt_tokens: tokens of one prompt.
        communities: groups of experts per layer that are chosen together.
        affinity: how many nats an expert gains where its community is the token's topic.
        prompt_share: part of the topic that is the prompt's (0: each token's own, 1: the same for the whole prompt).
        zipf: exponent of the popularity of experts; 0 for equal popularity.
        drift: autoregressive coefficient of log-popularity from one of ``epochs`` to the next; 1 for none.
        epochs: how often popularity changes within the trace.
        burst: probability that in an epoch one community is ``affinity`` nats more popular.
        domains: kinds of text; each prefers communities of its own by ``domain_affinity`` nats.
        domain_affinity: see ``domains``.
    """

    tokens: int = 8192
    layers: int = 4
    experts: int = 64
    top_k: int = 8
    prompt_tokens: int = 64
    communities: int = 8
    affinity: float = 2.0
    prompt_share: float = 0.5
    zipf: float = 0.5
    drift: float = 1.0
    epochs: int = 8
    burst: float = 0.0
    domains: int = 1
    domain_affinity: float = 1.0

    def __post_init__(self) -> None:
        error = InvalidTraceError
        whole(error, "tokens", self.tokens)
        whole(error, "experts", self.experts, 1, MOST_EXPERTS)
        whole(error, "top_k", self.top_k, 1, self.experts)
        for name in ("layers", "prompt_tokens", "communities", "epochs", "domains"):
            whole(error, name, getattr(self, name), 1)
        for name in ("affinity", "zipf", "domain_affinity"):
            real(error, name, getattr(self, name), most=1e3)
        for name in ("prompt_share", "drift", "burst"):
            real(error, name, getattr(self, name), most=1)


def generate_trace(traffic: Traffic, seed: int = 0) -> Trace:
    """A trace with the given parameters; equal seeds give equal traces.

    Raises:
        InvalidTraceError: no ``Traffic``, or a seed that is no whole number from 0.
    """
    instance(InvalidTraceError, "traffic", traffic, Traffic)
    random = np.random.default_rng(whole(InvalidTraceError, "seed", seed, most=MOST_SEED))
    prompt = np.arange(traffic.tokens) // traffic.prompt_tokens
    domain = (prompt * traffic.domains // max(int(prompt.max(initial=0)) + 1, 1)).astype(np.int16)
    epoch = np.arange(traffic.tokens) * traffic.epochs // max(traffic.tokens, 1)
    taste = random.normal(size=(traffic.domains, traffic.communities)) * traffic.domain_affinity
    topic = _topics(traffic, prompt, random) + taste[domain]
    ids = np.empty((traffic.tokens, traffic.layers, traffic.top_k), dtype=np.int16)
    for layer in range(traffic.layers):
        community = random.permutation(np.arange(traffic.experts) % traffic.communities)
        popularity = _popularity(traffic, community, random)
        logits = popularity[epoch] + traffic.affinity * topic[:, community]
        ids[:, layer] = sample_sets(logits, traffic.top_k, random)
    names = tuple(f"domain-{number}" for number in range(traffic.domains))
    return Trace(ids, traffic.experts, prompt.astype(np.int32), domain, names)


def _topics(traffic: Traffic, prompt: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float64]:
    """float64 ``[tokens, communities]``, unit variance per entry."""
    of_prompt = random.normal(size=(int(prompt.max(initial=0)) + 1, traffic.communities))[prompt]
    of_token = random.normal(size=(traffic.tokens, traffic.communities))
    share = traffic.prompt_share
    return np.asarray(np.sqrt(share) * of_prompt + np.sqrt(1 - share) * of_token, dtype=np.float64)


def _popularity(traffic: Traffic, community: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float64]:
    """float64 ``[epochs, experts]`` log-popularity: Zipf over a random ranking, drifting with kept variance."""
    ranked = -traffic.zipf * np.log(np.arange(1, traffic.experts + 1))
    centred = ranked - ranked.mean()
    state = random.permutation(centred)
    epochs = np.empty((traffic.epochs, traffic.experts))
    for number in range(traffic.epochs):
        fresh = random.permutation(centred)
        if number:
            state = traffic.drift * state + np.sqrt(1 - traffic.drift**2) * fresh
        surge = random.random() < traffic.burst
        epochs[number] = state + (traffic.affinity * (community == random.integers(traffic.communities)) * surge)
    return epochs


def sample_sets(logits: NDArray[np.float64], top_k: int, random: np.random.Generator) -> NDArray[np.int16]:
    """int16 ``[tokens, k]``: without replacement in proportion to exp(logits), ``[tokens, experts]``."""
    keys = logits + random.gumbel(size=logits.shape)
    return np.argpartition(-keys, top_k - 1, axis=1)[:, :top_k].astype(np.int16)
