"""The noise of sampling: the bits are part of what clients see, and they are as good as random."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_serving.engine.noise import exponential, gumbel, noise_bits

torch.set_num_threads(1)

GOLDEN = {
    (0, 0): [2609141809, 1702915595, 2052464642],
    (1, 0): [3460028112, 3600676943, 2147591644],
    (-1, 7): [2278908182, 4011285537, 4129950032],
    (2**63 - 1, 131071): [3133414959, 1883834684, 3533122775],
}
"""Of tokens 0, 1 and 149999, by seed and position."""


on_cuda = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.mark.parametrize("device", ["cpu", on_cuda])
def test_the_bits_are_the_same_in_every_release_and_on_every_device(device):
    tokens = torch.tensor([[0, 1, 149999]], device=device)
    seeds, positions = zip(*GOLDEN, strict=True)
    assert noise_bits(seeds, positions, tokens.expand(len(GOLDEN), -1)).tolist() == list(GOLDEN.values())


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31), st.lists(st.integers(0, 2**31), min_size=1, max_size=9))
def test_the_definition_in_plain_integers(seed, position, tokens):
    """The same arithmetic with Python's integers, which do not overflow, and unsigned factors."""
    assert noise_bits([seed], [position], torch.tensor([tokens])).tolist() == [
        [by_definition(seed, position, token) for token in tokens]
    ]


def by_definition(seed, position, token):
    keys = []
    for key in (0x9E3779B9, 0x7F4A7C15):
        for word in (seed % 2**32, (seed >> 32) % 2**32, position % 2**32):
            key = murmur3_finaliser(key ^ word)
        keys.append(key)
    return murmur3_finaliser(token ^ keys[0], keys[1])


def murmur3_finaliser(h, between=0):
    """``fmix32`` of MurmurHash3.cpp; ``between`` enters before its second product."""
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    h ^= (h >> 13) ^ between
    h = h * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


def test_the_finaliser_is_murmur3s():
    assert murmur3_finaliser(1) == 0x514E28B7  # by its reference implementation
    assert murmur3_finaliser(0) == 0


ROWS = 1 << 16


@pytest.mark.parametrize(
    ("seeds", "positions", "tokens"),
    [
        ([5] * ROWS, range(ROWS), [0, 1]),
        ([5] * ROWS, range(ROWS), [4095, 4094]),
        (range(ROWS), [3] * ROWS, [7, 7 ^ 65536]),
    ],
    ids=["neighbours", "one bit apart", "over seeds"],
)
def test_tokens_are_independent(seeds, positions, tokens):
    """Chi squared of the highest four bits of two tokens, over many positions or seeds."""
    bits = noise_bits(seeds, positions, torch.tensor([tokens])) >> 28
    assert within_chance(bits[:, 0] * 16 + bits[:, 1], 256)


@pytest.mark.parametrize("shift", [1, 2])
def test_neighbours_are_independent(shift):
    """In the vocabulary of one row, and from position to position for one token."""
    row = noise_bits([9], [4], torch.arange(ROWS)[None])[0] >> 28
    assert within_chance(row * 16 + row.roll(shift), 256)
    column = noise_bits([9] * ROWS, range(ROWS), torch.tensor([[11]]))[:, 0] >> 28
    assert within_chance(column * 16 + column.roll(shift), 256)


def within_chance(cells, count):
    """Whether ``cells`` are even over ``count`` cells: within five standard deviations of chi squared."""
    expected = len(cells) / count
    chi = ((torch.bincount(cells, minlength=count) - expected) ** 2 / expected).sum()
    return abs(float(chi) - (count - 1)) < 5 * (2 * (count - 1)) ** 0.5


def test_gumbel_noise_is_finite_and_distributed_as_its_name_says():
    ends = gumbel(torch.tensor([0, 2**32 - 1])).tolist()
    assert ends == pytest.approx([22.87, -3.13], abs=0.01)
    noise = gumbel(noise_bits([1], [0], torch.arange(ROWS)[None]))[0]
    # Of Gumbel's distribution: the mean is Euler's constant, the variance pi^2 / 6. Five standard errors.
    assert float(noise.mean()) == pytest.approx(0.57722, abs=5 * 1.2825 / ROWS**0.5)
    assert float(noise.var()) == pytest.approx(1.64493, abs=0.06)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_ends_for_every_word(dtype):
    """Float32 would round the largest words up to 2^32, and their noise would have no end."""
    noise = exponential(torch.tensor([0, 2**32 - 129, 2**32 - 128, 2**32 - 1]), dtype)
    assert noise.isfinite().all()
    assert (noise >= 0).all()
    assert (noise.diff() >= 0).all()
