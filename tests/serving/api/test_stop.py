import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_serving.api.stop import StopMatcher


def run(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    """What is sent after each piece (and after the end), and whether a stop string was met."""
    matcher = StopMatcher(stops)
    sent = []
    for piece in pieces:
        text, stopped = matcher.push(piece)
        sent.append(text)
        if stopped:
            return sent, True
    return [*sent, matcher.flush()], False


@pytest.mark.parametrize(
    ("stops", "pieces", "sent", "stopped"),
    [
        ([], ["abc"], ["abc", ""], False),
        (["END"], ["textEND more"], ["text"], True),
        (["END"], ["text E", "N", "D more"], ["text ", "", ""], True),
        (["END"], ["E", "N", "X"], ["", "", "ENX", ""], False),
        (["END"], ["EN"], ["", "EN"], False),
        (["\n\n"], ["a\n", "\n"], ["a", ""], True),
        (["aab"], ["aaa", "b"], ["a", ""], True),
        (["abcd", "bc"], ["a", "b", "c"], ["", "", "a"], True),
        (["abc", "bc"], ["abc"], [""], True),
        (["é"], ["caf", "é!"], ["caf", ""], True),
    ],
    ids=str,
)
def test_nothing_of_a_stop_string_is_sent(stops: list[str], pieces: list[str], sent: list[str], stopped: bool) -> None:
    assert run(stops, pieces) == (sent, stopped)


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
    pieces=st.lists(st.text("abc", max_size=5), max_size=8),
)
def test_how_a_text_is_cut_does_not_matter(stops: list[str], pieces: list[str]) -> None:
    sent, stopped = run(stops, pieces)
    whole, whole_stopped = run(stops, ["".join(pieces)])
    assert ("".join(sent), stopped) == ("".join(whole), whole_stopped)
    assert not any(stop in "".join(sent) for stop in stops)
    if not stopped:
        assert "".join(sent) == "".join(pieces)
