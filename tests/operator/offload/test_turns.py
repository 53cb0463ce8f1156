"""Whose turn it is."""

from moe_operator.offload.turns import Turns


def test_owners_take_turns_and_keep_their_order() -> None:
    turns: Turns[str] = Turns()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        turns.add("team", item[0], item)
    assert len(turns) == 6
    assert [turns.next() for _ in range(3)] == ["a1", "b1", "c1"]
    turns.add("team", "c", "c2")
    assert [turns.next() for _ in range(5)] == ["a2", "b2", "c2", "a3", None]


def test_whoever_comes_waits_for_one_of_each_other_however_much_they_have() -> None:
    turns: Turns[int] = Turns()
    for number in range(1000):
        turns.add("team", "much", number)
    turns.next()
    turns.add("team", "little", -1)
    assert [turns.next(), turns.next()] == [1, -1]


def test_many_owners_of_one_tenant_have_together_one_turn() -> None:
    turns: Turns[str] = Turns()
    for number in range(40):
        turns.add("much", f"address-{number}", f"much-{number}")
    turns.next()
    turns.add("little", "address", "little-1")
    turns.add("little", "address", "little-2")
    assert [turns.next() for _ in range(4)] == ["much-1", "little-1", "much-2", "little-2"]
    assert len(turns) == 37
