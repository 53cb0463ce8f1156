"""What Ray says where a wait of its own, of 30 s, ended before its node was there: the machine is busy with others."""

_ENDED = ("The current node timed out during startup", "Timed out waiting for node info")


def ray_gave_up(said: str) -> bool:
    """Whether that is among what was said: Ray might start the next time, and nothing was judged."""
    return any(each in said for each in _ENDED)
