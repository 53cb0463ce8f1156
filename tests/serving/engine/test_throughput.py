"""How long a queue will take, by what was seen."""

from moe_serving.engine.throughput import Throughput


def test_nothing_is_known_at_first() -> None:
    assert Throughput().wait_s(100_000) == 1


def test_by_the_rate_seen_within_a_second_and_a_minute() -> None:
    seen = Throughput()
    for _ in range(10):
        seen.busy(0.1)
        seen.done(20)  # 200 tokens a second
    assert [seen.wait_s(tokens) for tokens in (0, 150, 1100, 10**9)] == [1, 1, 6, 60]


def test_what_was_long_ago_is_forgotten() -> None:
    seen = Throughput()
    for tokens, steps in ((1000, 100), (10, 2000)):
        for _ in range(steps):
            seen.busy(0.1)
            seen.done(tokens)
    assert 9 <= seen.wait_s(1000) <= 11
