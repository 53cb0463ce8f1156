"""Bytes flow no faster than they may, whatever amounts they come in."""

from clock import Clock

from moe_serving.experts.throttle import BURST_SECONDS, TokenBucket

BEGUN = 100.0


def flow(bucket, clock, sizes):
    """Seconds until all of ``sizes`` may flow, one after the other."""
    begun = clock.now
    for size in sizes:
        clock.now += bucket.take(size)
    return clock.now - begun


def test_without_a_rate_nothing_waits():
    clock = Clock(BEGUN)
    assert flow(TokenBucket(0, clock), clock, [1 << 40, 1 << 40]) == 0.0


def test_amounts_of_any_size_keep_to_the_rate():
    for sizes in ([10] * 1000, [3000, 10, 6990], [10_000]):
        clock = Clock(BEGUN)
        bucket = TokenBucket(1000, clock)
        flow(bucket, clock, sizes)
        assert flow(bucket, clock, [0]) + clock.now - BEGUN >= 10.0 - BURST_SECONDS - 1e-6
        assert clock.now - BEGUN <= 10.0 + 1e-6


def test_a_pause_saves_up_for_a_short_burst_only():
    clock = Clock(BEGUN)
    bucket = TokenBucket(1000, clock)
    clock.now += 3600.0
    assert flow(bucket, clock, [100] * 11) > 0.85


def test_the_rate_may_change_on_the_way():
    clock = Clock(BEGUN)
    bucket = TokenBucket(1000, clock)
    bucket.take(1000)
    bucket.rate = 0
    assert bucket.take(5000) == 0.0
    bucket.rate = 100
    assert bucket.take(10) == 0.0
    assert 0.05 < bucket.take(10) < 0.11
