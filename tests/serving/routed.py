"""Whole expert sets as a gate might have chosen them, for what counts or keeps them."""

import numpy as np

from moe_serving.routing.gatherer import Sets

LAYERS, EXPERTS, TOP_K = 3, 6, 2


def sets(rows: int, seed: int = 0) -> Sets:
    random = np.random.default_rng(seed)
    ids = np.argsort(random.random((rows, LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K].astype(np.int16)
    return ids, random.random(ids.shape).astype(np.float32)
