"""Events of a stream are what the format's own chunks are, word for word, and no line ends within one."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moe_serving.api.answer import Piece
from moe_serving.api.chunks import Chunks
from moe_serving.api.responses import ChatFormat, CompletionFormat, Header, Usage

TEXTS = st.text(min_size=0, max_size=20) | st.sampled_from(
    ['"', "\\", "\u2028\u2029\u0085", "\x00\x1f\x7f", "é\U0001f600"]
)
PIECES = st.builds(
    Piece,
    text=TEXTS,
    finish=st.sampled_from([None, None, None, "stop", "length"]),
    token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple),
)
FORMATS = st.builds(
    lambda kind, model, with_usage, with_ids: kind(Header("cmpl-1", model, "fp_1", with_usage, with_ids)),
    st.sampled_from([ChatFormat, CompletionFormat]),
    TEXTS,
    st.booleans(),
    st.booleans(),
)


@given(
    FORMATS,
    st.integers(0, 127),
    st.lists(PIECES, min_size=1, max_size=4),
    st.none() | st.builds(Usage, st.integers(0), st.integers(0)),
)
@example(CompletionFormat(Header("a", '{"text":"', "f", True, True)), 0, [Piece("a", None, (1, 2))], None)
def test_events_are_the_formats_own_chunks(words, index: int, pieces: list[Piece], usage: Usage | None) -> None:
    chunks = Chunks(words, index)
    for piece in pieces:
        told = chunks.events(piece, usage)
        expected = [piece]
        if piece.finish is not None and piece.text:
            expected = [Piece(piece.text, None, piece.token_ids), Piece("", piece.finish)]
        lines = told.splitlines()
        assert lines[1::2] == [""] * len(expected), "each event is one line, however lines are told apart"
        bodies = [line.removeprefix("data: ") for line in lines[::2]]
        assert [json.loads(body) for body in bodies] == [words.chunk(index, each, usage) for each in expected]
        compact = [json.dumps(words.chunk(index, each, usage), separators=(",", ":")) for each in expected]
        assert [json.dumps(json.loads(body), separators=(",", ":")) for body in bodies] == compact, "in the same order"


@pytest.mark.parametrize("with_ids", [False, True])
def test_token_ids_are_shown_to_whoever_asked(with_ids: bool) -> None:
    chunks = Chunks(CompletionFormat(Header("a", "m", "f", False, with_ids)), 0)
    choice = json.loads(chunks.events(Piece("x", None, (7, 8))).removeprefix("data: "))["choices"][0]
    assert choice.get("token_ids") == ([7, 8] if with_ids else None)
