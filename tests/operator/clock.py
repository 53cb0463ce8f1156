"""Time in the test's hand."""


class Clock:
    """Monotonic seconds that pass only when ``now`` is written."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
