"""What is told of somebody else's writes, and for how long."""

from moe_operator.api import Reason
from moe_operator.runtimes.serve.foreign import LOSS_SECONDS, ForeignWrites

RAY = "http://ray:8265"


def told(writes: ForeignWrites, now: float, often: bool = False) -> str | None:
    found = writes.told(RAY, now, often)
    assert found is None or found.reason == Reason.FOREIGN_WRITER
    return found.message if found else None


def test_writes_are_told_for_a_while() -> None:
    writes = ForeignWrites()
    assert told(writes, 0.0) is None
    writes.note({"a"}, {}, 0.0)
    writes.note({"b"}, {"c": "args.model", "d": ""}, 100.0)
    begins = f"another writer of Serve's configuration at {RAY} "
    ends = "; they were put back as they were: have it keep what it does not own"
    assert told(writes, 200.0) == f"{begins}removed a, b and changed c (args.model), d{ends}"
    assert told(writes, LOSS_SECONDS) == f"{begins}removed b and changed c (args.model), d{ends}"
    assert told(writes, LOSS_SECONDS + 100.0) is None


def test_what_does_not_stay_is_told_so() -> None:
    writes = ForeignWrites()
    writes.note({f"a{number}" for number in range(7)}, {}, 0.0)
    said = told(writes, 1.0, often=True)
    assert said is not None
    assert "removed a0, a1, a2, a3, a4 and 2 more again and again, or this Ray does not keep what it is given" in said
