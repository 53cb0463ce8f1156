"""Pairs by shard: compiled code against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from moe_serving.routing.cuts import cut


@pytest.mark.parametrize("seed", range(40))
def test_each_shard_gets_its_pairs_in_order(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shape = int(draw.integers(0, 6)), int(draw.integers(1, 5))
    choice = draw.integers(-1, draw.integers(1, 8), size=shape)
    experts, gates = draw.integers(0, 100, size=shape), draw.random(shape, dtype=np.float32)
    cuts = cut(choice, experts, gates)
    assert [each.position for each in cuts] == sorted({int(position) for position in choice.ravel()} - {-1})
    for each in cuts:
        pairs = [(token, place) for token, place in np.ndindex(shape) if choice[token, place] == each.position]
        assert list(zip(each.token.tolist(), each.place.tolist(), strict=True)) == pairs
        assert each.experts.tolist() == [experts[pair] for pair in pairs]
        assert each.weights.tolist() == [gates[pair] for pair in pairs]
        assert each.rows.tolist() == sorted({token for token, _ in pairs})
        counts = [sum(token == row for token, _ in pairs) for row in each.rows]
        assert each.offsets.tolist() == [0, *np.cumsum(counts).tolist()]
        assert (each.offsets.dtype, each.experts.dtype, each.weights.dtype) == (np.int32, np.int32, np.float32)


def test_arrays_that_do_not_lie_in_one_piece() -> None:
    choice, experts = np.array([[0, 1], [1, 1]]), np.array([[5, 6], [7, 8]])
    turned = cut(choice.T, experts.T, np.ones((2, 2), dtype=np.float32).T)
    assert [(each.position, each.experts.tolist()) for each in turned] == [(0, [5]), (1, [7, 6, 8])]
