"""The choice of a token: greedy, nucleus, and the same on every replica."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_serving.engine.nucleus import Cuts, nucleus
from moe_serving.engine.request import Sampling
from moe_serving.engine.sampler import choose_tokens

torch.set_num_threads(1)

GREEDY = Sampling(max_tokens=1)


def warm(seed: int = 0, temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    return Sampling(max_tokens=1, temperature=temperature, top_p=top_p, seed=seed)


def test_greedy_rows_beside_drawn_ones():
    logits = torch.tensor([[0.0, 3.0, 1.0], [9.0, 0.0, 0.0], [0.0, 0.0, 40.0]])
    assert choose_tokens(logits, [GREEDY, warm(), warm()], [0, 0, 0]) == [1, 0, 2]


def test_frequencies_follow_the_probabilities():
    wanted = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 4000
    tokens = choose_tokens(wanted.log().expand(rows, 4), [warm(seed) for seed in range(rows)], [3] * rows)
    seen = torch.bincount(torch.tensor(tokens), minlength=4) / rows
    # Five standard deviations of a frequency of 4000 draws; the seeds are fixed, so this never flickers.
    assert torch.allclose(seen, wanted, atol=5 * 0.5 / math.sqrt(rows))


@pytest.mark.parametrize(
    ("top_p", "possible"), [(1.0, {0, 1, 2, 3}), (0.96, {0, 1, 2, 3}), (0.9, {0, 1, 2}), (0.5, {1}), (1e-9, {1})]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, possible):
    logits = torch.tensor([0.3, 0.5, 0.15, 0.05]).log()
    rows = 500
    tokens = choose_tokens(logits.expand(rows, 4), [warm(seed, top_p=top_p) for seed in range(rows)], [0] * rows)
    assert set(tokens) == possible


@pytest.mark.parametrize(
    ("how", "possible"),
    [({"top_k": 2}, {0, 1}), ({"top_k": 9}, {0, 1, 2, 3}), ({"min_p": 0.25}, {0, 1, 2}), ({"min_p": 1.0}, {1}),
     ({"top_k": 3, "top_p": 0.8}, {0, 1}), ({"top_k": 3, "min_p": 0.7, "top_p": 0.9}, {1})],
    ids=str,
)  # fmt: skip
def test_what_top_k_and_min_p_leave_is_drawn(how, possible):
    logits = torch.tensor([0.3, 0.5, 0.15, 0.05]).log()
    rows = 500
    hows = [Sampling(max_tokens=1, temperature=1.0, seed=seed, **how) for seed in range(rows)]
    assert set(choose_tokens(logits.expand(rows, 4), hows, [0] * rows)) == possible


def test_a_low_temperature_approaches_greedy():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    assert choose_tokens(logits, [warm(temperature=1e-4)] * 50, [0] * 50) == logits.argmax(-1).tolist()


def test_a_row_does_not_depend_on_its_batch():
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    hows = [warm(seed, temperature=0.8, top_p=0.9) for seed in range(20)]
    together = choose_tokens(logits, hows, list(range(20)))
    alone = [choose_tokens(logits[i : i + 1], hows[i : i + 1], [i])[0] for i in range(20)]
    assert together == alone


def test_a_row_does_not_depend_on_others_that_are_chosen_in_other_ways():
    """Of a large vocabulary few tokens are looked at; of rows without likely ones, more."""
    logits = torch.randn(16, 30_100, generator=torch.Generator().manual_seed(2)) * 3
    logits[::2] *= 0.01
    ways = [{}, {"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.1}, {"top_k": 500, "top_p": 0.99}, {"temperature": 0.0}]
    hows = [Sampling(max_tokens=1, **{"temperature": 1.3, "seed": row, **ways[row % 6]}) for row in range(16)]
    together = choose_tokens(logits, hows, list(range(16)))
    alone = [choose_tokens(logits[row : row + 1], hows[row : row + 1], [row])[0] for row in range(16)]
    assert together == alone


def test_seed_and_position_both_count():
    flat = torch.zeros(1, 50_000)
    tokens = {choose_tokens(flat, [warm(seed)], [position])[0] for seed in range(20) for position in range(20)}
    assert len(tokens) >= 396  # of 400 draws from 50,000 a few may meet


def test_drawn_tokens_are_the_same_in_every_release():
    # They are part of what a client sees: another replica, perhaps of the next release, continues an answer.
    logits = torch.arange(1000)[None] % 7 / 2
    whole = warm(seed=5)
    assert [choose_tokens(logits, [whole], [position])[0] for position in range(5)] == [768, 257, 384, 557, 601]
    nucleus_only = warm(seed=5, top_p=0.5)
    assert [choose_tokens(logits, [nucleus_only], [position])[0] for position in range(5)] == [258, 257, 384, 594, 601]


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_equal_seeds_give_equal_tokens_in_batches_of_any_size(top_p):
    """Logits computed in another batch differ by rounding; here by ten times as much, which changed 7 of these tokens
    while a draw inverted the cumulated distribution. A token at the edge of the nucleus may be in or out; those are
    counted apart.
    """
    generator = torch.Generator().manual_seed(0)
    rows, vocabulary = 1000, 8000
    alone = torch.randn(rows, vocabulary, generator=generator) * 3
    together = alone + torch.randn(rows, vocabulary, generator=generator) * 3e-5
    hows = [warm(seed, top_p=top_p) for seed in range(rows)]
    first, second = (choose_tokens(logits, hows, range(rows)) for logits in (alone, together))
    flipped = [row for row in range(rows) if first[row] != second[row]]
    edge = [row for row in flipped if nucleus_of(alone[row], top_p) != nucleus_of(together[row], top_p)]
    print(f"top_p {top_p}: {len(flipped)} of {rows} tokens flipped, {len(edge)} of them at the edge")
    assert len(flipped) - len(edge) == 0
    assert len(edge) <= 2


def nucleus_of(logits, top_p):
    one = torch.tensor([1.0]).double()
    found = nucleus(logits[None], one, Cuts(torch.tensor([len(logits)]), one * top_p, one * 0))
    return set(found.tokens[found.scores > -torch.inf].tolist())


@given(st.integers(0, 2**63), st.integers(0, 10_000), st.floats(0.01, 1.0), st.floats(0.05, 5.0))
def test_a_token_without_probability_is_never_drawn(seed, position, top_p, temperature):
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, 0.5, -math.inf]])
    assert choose_tokens(logits, [warm(seed, temperature, top_p)], [position])[0] in {1, 3}


@pytest.mark.parametrize("how", [GREEDY, warm()], ids=["greedy", "drawn"])
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_rows_that_are_no_numbers_have_no_token_and_spoil_no_other(how, odd):
    logits = torch.tensor([[0.0, 90.0], [odd, 0.0], [90.0, 0.0]])
    assert choose_tokens(logits, [how] * 3, [0] * 3) == [1, None, 0]


@pytest.mark.parametrize("temperature", [1e-6, 1e-300, 5e-324])
def test_a_temperature_next_to_0_is_greedy(temperature):
    logits = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)) * 100
    assert choose_tokens(logits, [warm(temperature=temperature)] * 20, [0] * 20) == logits.argmax(-1).tolist()
