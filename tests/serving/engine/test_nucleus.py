"""The tokens a draw may take equal the definition by a full sort, whatever the shape of the distribution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from moe_serving.engine.nucleus import Cuts, block_maxima, largest, likeliest, nucleus

torch.set_num_threads(1)


def by_definition(logits, temperature, top_p):
    """The smallest set whose probabilities reach ``top_p``; among equals the lower id comes first."""
    mass = torch.softmax(logits.double() / temperature, dim=-1)
    ordered, tokens = mass.sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    return {int(token) for token, less in zip(tokens, before, strict=True) if less < top_p} | {int(tokens[0])}


def cuts(vocabulary, top_p, top_k=0, min_p=0.0):
    """Of rows whose ``top_p`` are given; ``top_k`` 0 is all."""
    return Cuts(
        top_k=torch.tensor([top_k or vocabulary]).clamp(max=vocabulary).expand(len(top_p)),
        top_p=torch.tensor(top_p).double(),
        min_p=torch.tensor([min_p]).double().expand(len(top_p)),
    )


def kept(candidates, row):
    return set(candidates.tokens[row][candidates.scores[row] > -torch.inf].tolist())


SHAPES = {
    "peaked": lambda g: torch.randn(3, 30_000, generator=g) * 2 + 15 * (torch.rand(3, 30_000, generator=g) > 0.999),
    "flat": lambda g: torch.randn(3, 30_000, generator=g) * 0.01,
    "one token": lambda g: torch.where(torch.arange(30_000) == 17_123, 50.0, torch.randn(3, 30_000, generator=g)),
    "many as likely as each other": lambda g: (torch.randn(3, 30_000, generator=g) * 2).round(),
    "forbidden tokens": lambda g: torch.randn(3, 30_000, generator=g).masked_fill(
        torch.arange(30_000) % 3 > 0, -torch.inf
    ),
    "a small vocabulary": lambda g: torch.randn(3, 50, generator=g),
    "no whole number of blocks": lambda g: torch.randn(3, 20_001, generator=g) * 6,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_the_definition(shape):
    logits = shape(torch.Generator().manual_seed(3))
    temperature, top_p = torch.tensor([1.0, 0.5, 1.7]).double(), [0.9, 0.99, 0.3]
    candidates = nucleus(logits, temperature, cuts(logits.shape[1], top_p))
    for row in range(3):
        wanted = by_definition(logits[row], float(temperature[row]), top_p[row])
        # Rounding may decide about tokens at the very edge.
        assert len(kept(candidates, row) ^ wanted) <= len(wanted) * 1e-4


def transformers_keeps(logits, temperature, top_k, top_p, min_p):
    """By its own processors, in its own order, in float64."""
    scores = theirs.TemperatureLogitsWarper(temperature)(None, logits.double()[None])
    if top_k:
        scores = theirs.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = theirs.TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = theirs.MinPLogitsWarper(min_p)(None, scores)
    return set((scores[0] > -torch.inf).nonzero().flatten().tolist())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(1, 1.0, 0.0), (20, 1.0, 0.0), (500, 0.9, 0.0), (0, 1.0, 0.1), (0, 0.95, 0.02), (50, 0.8, 0.05), (10**9, 1.0, 1.0),
     (3000, 1.0, 1e-6)],
)  # fmt: skip
def test_what_may_be_drawn_is_what_transformers_own_processors_leave(shape, top_k, top_p, min_p):
    logits = shape(torch.Generator().manual_seed(5))
    temperature = torch.tensor([1.0, 0.5, 1.7]).double()
    candidates = nucleus(logits, temperature, cuts(logits.shape[1], [top_p] * 3, top_k, min_p))
    for row in range(3):
        wanted = transformers_keeps(logits[row], float(temperature[row]), top_k, top_p, min_p)
        mine = kept(candidates, row)
        if top_p == 1:
            finite = {token for token in wanted if logits[row, token] > -torch.inf}
            assert mine == finite
        else:
            # Rounding may decide about tokens at the very edge, of which some may be as likely as each other.
            edge = {float(logits[row, token]) for token in mine ^ wanted}
            assert len(edge) <= max(1, len(wanted) * 1e-4)


def test_rows_of_one_batch_keep_their_own():
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(5)) * 3
    together = Cuts(
        top_k=torch.tensor([3000, 5, 3000, 700]),
        top_p=torch.tensor([0.9, 1.0, 1.0, 0.99]).double(),
        min_p=torch.tensor([0.0, 0.0, 0.01, 0.001]).double(),
    )
    temperature = torch.ones(4).double()
    candidates = nucleus(logits, temperature, together)
    for row in range(4):
        alone = Cuts(together.top_k[row : row + 1], together.top_p[row : row + 1], together.min_p[row : row + 1])
        assert kept(candidates, row) == kept(nucleus(logits[row : row + 1], temperature[:1], alone), 0)


@settings(deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=300),
    st.floats(0.01, 1.0, exclude_max=True),
    st.floats(1e-4, 3.0),
)
def test_scores_are_those_of_the_tokens_and_someone_is_always_left(values, top_p, temperature):
    logits = torch.tensor([values]) / 4
    candidates = nucleus(logits, torch.tensor([temperature]).double(), cuts(len(values), [top_p]))
    assert int(logits[0].argmax()) in kept(candidates, 0)
    left = candidates.scores[0] > -torch.inf
    scores = (logits[0, candidates.tokens[0]] - logits.max()).double() / temperature
    torch.testing.assert_close(candidates.scores[0][left], scores[left])


@pytest.mark.parametrize("width", [1, 127, 128, 1000, 1024])
def test_the_likeliest_token_is_the_first_of_the_largest(width):
    values = (torch.randn(200, width, generator=torch.Generator().manual_seed(0)) * 2).round()
    values[0, -1] = values[1, 0] = 9
    assert torch.equal(likeliest(values, block_maxima(values)), (values == values.amax(-1, True)).int().argmax(-1))


@pytest.mark.parametrize("count", [1, 5, 64, 1000])
@pytest.mark.parametrize("width", [1000, 1024, 20_001])
def test_largest(count, width):
    values = (torch.randn(4, width, generator=torch.Generator().manual_seed(0)) * 50).round()
    found, places = largest(values, count)
    wanted = values.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(found, wanted.values[:, :count])
    above = found > found[:, -1:]  # of those equal to the last one any may be found
    assert torch.equal(places[above], wanted.indices[:, :count][above])
    assert torch.equal(values.gather(1, places), found)
