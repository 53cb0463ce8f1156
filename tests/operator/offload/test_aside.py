"""For how long what leads nowhere is left alone."""

from moe_operator.offload.aside import CAP_SECONDS, FIRST_SECONDS, Aside


def test_the_delay_grows_and_ends_with_a_success() -> None:
    now = 0.0
    aside = Aside(lambda: now)
    assert aside.why is None
    delays = []
    for _ in range(20):
        aside.put("too large")
        begin = now
        while aside.why is not None:
            assert aside.why == "too large"
            now += 1.0
        delays.append(now - begin)
    assert delays[:6] == [FIRST_SECONDS, 20.0, 40.0, 80.0, 160.0, CAP_SECONDS]
    assert set(delays[5:]) == {CAP_SECONDS}
    aside.put("too large")
    aside.clear()
    assert aside.why is None
    aside.put("too deep")
    now += FIRST_SECONDS
    assert aside.why is None
