"""Attention over scattered blocks of the cache against torch's softmax in float64, cut into ranges or whole."""

import pytest
import torch
from near import assert_near, drawn

from moe_serving.gpu import attention as gpu

LENGTHS, TOKENS = [1, 37, 5, 200], [5, 0, 2, 4]


def scattered(lengths, block):
    """Tables ``[B, blocks]``, of each sequence the rows of its positions, and how many rows there are."""
    size = min(block, max(lengths))
    blocks = [-(-length // size) for length in lengths]
    order = torch.randperm(sum(blocks), generator=torch.Generator().manual_seed(3)).tolist()
    tables = torch.full((len(lengths), max(blocks)), 1 << 40)  # what is behind a sequence is not looked at
    rows_of = []
    for number, (length, count) in enumerate(zip(lengths, blocks, strict=True)):
        mine = torch.tensor([order.pop() * size for _ in range(count)])
        tables[number, :count] = mine
        positions = torch.arange(length)
        rows_of.append(mine[positions // size] + positions % size)
    return tables, rows_of, sum(blocks) * size


@pytest.mark.parametrize(
    ("ranges", "block", "window", "heads", "kv_heads", "width"),
    [
        (1, 16, 0, 2, 2, 16), (2, 1, 70, 2, 2, 16), (8, 16, 500, 6, 1, 24), (2, 48, 1, 6, 1, 24),
        (1, 1 << 62, 70, 2, 1, 16), (8, 16, 0, 20, 1, 8), (1, 16, 1, 1, 1, 40),
    ],
)  # fmt: skip
def test_attend(ranges, block, window, heads, kv_heads, width):
    tables, rows_of, rows = scattered(LENGTHS, block)
    keys, values = drawn(rows, kv_heads, width), drawn(rows, kv_heads, width, seed=1)
    query = drawn(6, heads, width, seed=2)
    out = torch.zeros_like(query)
    ends = torch.tensor(LENGTHS)
    firsts = (ends - window).clamp(min=0) if window else 0 * ends
    gpu.attend(query, torch.tensor(TOKENS), tables, block, firsts, ends, 0.3, keys, values, out, ranges)
    for token, mine in zip(TOKENS, rows_of, strict=True):
        seen = mine[-window:] if window else mine
        near_keys, near_values = (x[seen].double().repeat_interleave(heads // kv_heads, 1) for x in (keys, values))
        scores = torch.einsum("hd,phd->hp", query[token].double(), near_keys) * 0.3
        assert_near(out[token], torch.einsum("hp,phd->hd", scores.softmax(-1), near_values))
    assert not out[[1, 3]].any(), "other tokens are not touched"


def test_a_cache_in_bfloat16_is_read_as_what_it_holds():
    tables, _, rows = scattered([33], 16)
    keys, values = drawn(rows, 2, 16, dtype=torch.bfloat16), drawn(rows, 2, 16, dtype=torch.bfloat16, seed=1)
    query, first, end = drawn(1, 4, 16, seed=2), torch.tensor([0]), torch.tensor([33])
    found, wanted = torch.empty_like(query), torch.empty_like(query)
    gpu.attend(query, first, tables, 16, first, end, 0.3, keys, values, found)
    gpu.attend(query, first, tables, 16, first, end, 0.3, keys.float(), values.float(), wanted)
    assert torch.equal(found, wanted)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what it is given
@pytest.mark.parametrize("ranges", [1, 4])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(ranges, poison):
    """Or a damaged model would seem to answer; of a sequence beside it nothing is lost."""
    keys, values = torch.ones(600, 1, 16), torch.ones(600, 1, 16)
    query, out = torch.ones(2, 1, 16), torch.zeros(2, 1, 16)
    values[250] = poison
    tables, tokens, ends = torch.tensor([[0], [300]]), torch.tensor([0, 1]), torch.tensor([300, 300])
    gpu.attend(query, tokens, tables, 1 << 62, 0 * ends, ends, 1.0, keys, values, out, ranges)
    assert not out[0].isfinite().any() and out[1].isfinite().all()
    keys[:300], values[250] = poison, 1.0
    gpu.attend(query, tokens, tables, 1 << 62, 0 * ends, ends, 1.0, keys, values, out, ranges)
    assert not out[0].isfinite().any() and out[1].isfinite().all()


@pytest.mark.parametrize(
    ("programs", "ranges"), [(1, 32), (4, 32), (32, 8), (100, 2), (132, 2), (133, 1), (5000, 1), (0, 32)]
)
def test_sequences_are_cut_where_there_are_few(programs, ranges):
    assert gpu.ranges_of(programs) == ranges
