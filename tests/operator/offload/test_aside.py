"""For how long what leads nowhere is left alone."""

import pytest

from moe_operator.offload.aside import CAP_SECONDS, FIRST_SECONDS, Aside
from moe_operator.offload.errors import JobDelayedError, JobTooHeavyError


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


def test_what_was_too_much_is_not_tried_again_at_once() -> None:
    now = 0.0
    aside = Aside(lambda: now)
    tried = []

    def attempt(error: Exception | None) -> None:
        with aside.around(JobTooHeavyError):
            tried.append(error)
            if error:
                raise error

    for _ in range(2):
        with pytest.raises(JobTooHeavyError, match=r"^took more than 5 s$"):
            attempt(JobTooHeavyError("took more than 5 s"))
    assert len(tried) == 1
    now += FIRST_SECONDS
    with pytest.raises(JobDelayedError):  # says nothing of it
        attempt(JobDelayedError("others"))
    assert aside.why is None
    with pytest.raises(JobTooHeavyError):
        attempt(JobTooHeavyError("took more than 6 s"))
    now += FIRST_SECONDS
    assert aside.why == "took more than 6 s"  # for longer than the first time
    now += FIRST_SECONDS
    attempt(None)
    with pytest.raises(JobTooHeavyError):
        attempt(JobTooHeavyError("took more than 7 s"))
    now += FIRST_SECONDS
    assert aside.why is None
