"""Numbers of layers as users write and read them."""

import pytest

from moe_placement import MismatchError
from moe_placement.ranges import as_ranges, from_ranges


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 5], "0-2, 5"), ([7, 6, 1, 1], "1, 6-7"), ([2, 4], "2, 4")]
)
def test_shown(numbers: list[int], text: str) -> None:
    assert as_ranges(numbers) == text


@pytest.mark.parametrize(
    ("text", "numbers"), [("3", (3,)), ("0-2,5", (0, 1, 2, 5)), (" 4 , 1 - 2 ", (4, 1, 2)), ("6-6", (6,))]
)
def test_read(text: str, numbers: tuple[int, ...]) -> None:
    assert from_ranges(MismatchError, "--layers", text, 9) == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--layers is '': '' is neither a number nor a range such as 3-60"),
        ("1,,2", "'' is neither"),
        ("a-3", "'a-3' is neither"),
        ("-3", "'-3' is neither"),
        ("1-2-3", "'1-2-3' is neither"),
        ("3-1", "'3-1' begins above its end"),
        ("1,0-2", "names a number twice"),
        (",".join(["0-9"] * 10**5), "names a number twice"),
        ("0-10", "--layers is 10; it must be a whole number from 0 to 9"),
        ("0-999999999", "--layers is 999999999"),
        ("1" * 5000, "is neither a number"),
        ("²", "is neither a number"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        from_ranges(MismatchError, "--layers", text, 9)
