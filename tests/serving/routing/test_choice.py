"""The choice of copies: always one that may be asked, few visits, even load."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moe_placement import balanced_placement
from moe_serving.routing.choice import NOBODY, choose_shards

ANYWHERE = np.zeros(4, dtype=bool)


def visits(choice: np.ndarray) -> float:
    return float(np.mean([len({shard for shard in row if shard != NOBODY}) for row in choice.tolist()]))


@st.composite
def layers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens, top_k, shards, experts = (draw(st.integers(1, n)) for n in (12, 4, 5, 8))
    ids = draw(hnp.arrays(np.int64, (tokens, top_k), elements=st.integers(0, experts - 1)))
    held = draw(hnp.arrays(np.bool_, (experts, shards)))
    return ids, held[ids], draw(hnp.arrays(np.bool_, (shards,)))


@given(layers())
def test_every_pair_goes_to_one_of_its_candidates_or_to_nobody(
    layer: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    experts, candidates, local = layer
    choice = choose_shards(experts, candidates, local)
    token, place = np.nonzero(choice != NOBODY)
    assert candidates[token, place, choice[token, place]].all()
    assert ((choice == NOBODY) == ~candidates.any(axis=2)).all()
    assert (choice == choose_shards(experts, candidates, local)).all(), "the same layer is cut the same way each time"


def test_without_shards_nobody_is_asked() -> None:
    assert (choose_shards(np.array([[0, 1]]), np.zeros((1, 2, 0), dtype=bool), np.zeros(0, dtype=bool)) == NOBODY).all()


def test_a_token_prefers_a_shard_that_it_must_visit() -> None:
    """Expert 0 is only on shard 1, experts 1 and 2 on 0 and 1: one visit does."""
    held = np.array([[0, 1], [1, 1], [1, 1]], dtype=bool)
    experts = np.array([[1, 0], [2, 0]])
    assert (choose_shards(experts, held[experts], np.zeros(2, dtype=bool)) == 1).all()


def test_the_shard_that_covers_most_of_a_token_comes_first() -> None:
    held = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=bool)
    experts = np.array([[0, 1, 2, 3]])
    choice = choose_shards(experts, held[experts], np.zeros(3, dtype=bool))
    assert visits(choice) == 2


def test_our_own_node_is_preferred_between_equals() -> None:
    held = np.ones((8, 3), dtype=bool)
    experts = np.arange(8)[:, None]
    assert (choose_shards(experts, held[experts], np.array([False, True, False])) == 1).all()


def test_load_is_spread_over_copies() -> None:
    held = np.ones((16, 4), dtype=bool)
    experts = np.arange(256)[:, None] % 16
    load = np.bincount(choose_shards(experts, held[experts], ANYWHERE).ravel(), minlength=4)
    assert load.min() >= 32, f"a quarter each would be 64, got {load}"


def test_free_pairs_go_where_others_have_little_to_do() -> None:
    """32 tokens can only go to shard 0; the 32 that have a choice mostly go elsewhere."""
    held = np.array([[1, 0], *([[1, 1]] * 15)], dtype=bool)
    experts = np.array([[0]] * 32 + [[1 + n % 15] for n in range(32)])
    choice = choose_shards(experts, held[experts], np.zeros(2, dtype=bool))
    assert (choice[32:] == 1).mean() > 0.9


def test_rows_of_one_expert_meet_in_one_place() -> None:
    held = np.ones((16, 4), dtype=bool)
    experts = np.arange(64)[:, None] * 7 % 16
    choice = choose_shards(experts, held[experts], ANYWHERE)
    assert all(len(set(choice[experts == expert])) == 1 for expert in range(16))


def test_two_copies_save_visits() -> None:
    """What copies are for besides safety: with two of each expert a token of top-4 visits fewer shards."""
    rng = np.random.default_rng(1)
    experts = np.argsort(rng.random((200, 16)), axis=1)[:, :4]
    fan_out = {}
    for copies in (1, 2):
        held = balanced_placement(1, 16, [4 * copies] * 4, copies).held[0]
        fan_out[copies] = visits(choose_shards(experts, held[experts], ANYWHERE))
    assert fan_out[2] < 0.85 * fan_out[1]
