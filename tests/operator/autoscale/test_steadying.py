"""Up soon, down late, and no flapping whatever the load."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_operator.autoscale.need import Targets, need
from moe_operator.autoscale.steadying import GAP_SECONDS, Steadying
from moe_operator.autoscale.usage import Usage

EVERY = 5.0


def fed(*wanted: int, up: float = 15.0, down: float = 60.0) -> Steadying:
    steadying = Steadying(up, down)
    for number, shards in enumerate(wanted):
        steadying.note(1000.0 + EVERY * number, shards)
    return steadying


TABLE = [
    # what was wanted at every look, 5 s apart; how many there are; how many there should be
    ((), 2, 2),
    ((4,), 2, 2),
    ((4, 4, 4), 2, 2),
    ((4, 4, 4, 4), 2, 4),  # for 15 s
    ((4, 3, 5, 4), 2, 3),  # as many as were wanted all the time
    ((4, 4, 2, 4), 2, 2),
    ((4, 4, 4, 2), 2, 2),
    ((2, 4, 4, 4, 4), 2, 4),
    ((1,) * 12, 2, 2),
    ((1,) * 13, 2, 1),  # for 60 s
    ((1, *(2,) * 12), 4, 2),
    ((3, *(1,) * 12), 4, 3),  # down to the most that were wanted meanwhile
    ((3, *(1,) * 13), 4, 1),
    ((*(1,) * 12, 3), 2, 2),
]


@pytest.mark.parametrize(("wanted", "current", "settled"), TABLE)
def test_what_was_wanted_for_long_enough(wanted: tuple[int, ...], current: int, settled: int) -> None:
    assert fed(*wanted).settled(current) == settled


def test_of_a_gap_nothing_is_known() -> None:
    steadying = fed(*(1,) * 13)
    steadying.note(1000.0 + EVERY * 12 + GAP_SECONDS + 1, 1)
    assert steadying.settled(2) == 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 9))
def test_as_a_window_says_that_keeps_all(wanted: list[int], current: int) -> None:
    known = EVERY * (len(wanted) - 1)
    least, most = min(wanted[-4:]), max(wanted[-13:])
    expected = current
    if known >= 15 and least > current:
        expected = least
    elif known >= 60 and most < current:
        expected = most
    assert fed(*wanted).settled(current) == expected


def changes(loads: list[float], target: float, up: float, down: float, shards: int = 2) -> list[tuple[int, int]]:
    """Replay: work of ``loads`` shards a second at each look, on as many shards as the policy has by then."""
    steadying, found = Steadying(up, down), []
    for number, load in enumerate(loads):
        used = Usage(shards, min(1.0, load / shards), 0, min(load, shards))
        steadying.note(EVERY * number, min(16, need(used, Targets(target)).shards))
        settled = steadying.settled(shards)
        if settled != shards:
            found.append((shards, settled))
            shards = settled
            steadying.clear()
    return found


@settings(max_examples=200)
@given(st.floats(0.0, 10.0), st.floats(0.1, 0.9), st.integers(0, 2**32), st.integers(1, 16))
def test_a_load_with_noise_never_flaps(load: float, target: float, seed: int, shards: int) -> None:
    """Noise of 7% either way: what was once taken away is not wanted back, and the reverse."""
    draw = random.Random(seed)
    found = changes([load * draw.uniform(0.93, 1.07) for _ in range(600)], target, 15, 60, shards)
    directions = [after > before for before, after in found]
    assert directions in ([True] * len(found), [False] * len(found)), found


def test_a_day_is_followed_with_few_changes() -> None:
    """Replayed: a day of traffic, quiet at night, with peaks of a minute and noise of a tenth."""
    draw = random.Random(7)
    looks = int(86400 / EVERY)
    day = [1.0 + 4.0 * math.sin(math.pi * at / looks) ** 2 for at in range(looks)]
    peaks = {start + at for start in range(0, looks, 720) for at in range(12)}
    loads = [draw.uniform(0.9, 1.1) * (1.6 if at in peaks else 1.0) * load for at, load in enumerate(day)]
    found = changes(loads, 0.7, 15, 300)
    # 24 peaks: each adds shards once and takes them away once, beside the day's own way up and down.
    assert len(found) <= 2 * 24 + 24
    turns = [a for a, b in itertools.pairwise(found) if (a[1] > a[0]) != (b[1] > b[0])]
    assert len(turns) <= 2 * 24 + 2
    # The same without peaks goes up and down once.
    calm = changes([draw.uniform(0.93, 1.07) * load for load in day], 0.7, 15, 300)
    assert [after > before for before, after in calm] == sorted((a > b for b, a in calm), reverse=True)
    assert max(after for _, after in calm) == 8
