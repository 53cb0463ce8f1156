"""Which files are learnt from and which are kept for measuring; what conversations are made of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training import corpus
from training.chat import facts, passages
from training.corpus import Document, corpus_digest, split_by_file, without_licence_header
from training.errors import CorpusError

DOCUMENTS = [Document(f"file{i}.py", f"text {i} " * 50) for i in range(400)]


@given(st.permutations(DOCUMENTS[:60]))
def test_a_file_keeps_its_side_whatever_else_is_there(shuffled: list[Document]) -> None:
    split = split_by_file("python", shuffled, 10**9)
    assert set(split.train).isdisjoint(split.held_out)
    assert split == split_by_file("python", DOCUMENTS[:60], 10**9)
    alone = split_by_file("python", shuffled[:1], 10**9)
    assert set(alone.train) <= set(split.train)


def test_about_one_file_in_twenty_is_held_out() -> None:
    split = split_by_file("python", DOCUMENTS, 10**9)
    assert len(split.train) + len(split.held_out) == len(DOCUMENTS)
    assert 10 <= len(split.held_out) <= 35


def test_a_domain_is_cut_to_length_by_whole_files() -> None:
    split = split_by_file("python", DOCUMENTS, 3_000)
    total = sum(len(document.text) for document in split.train)
    assert 3_000 <= total < 3_000 + max(len(document.text) for document in DOCUMENTS)


def test_the_digest_sees_every_change() -> None:
    original = {"python": split_by_file("python", DOCUMENTS, 3_000)}
    changed = [Document(d.name, d.text + ".") for d in DOCUMENTS]
    assert corpus_digest(original) == corpus_digest({"python": split_by_file("python", DOCUMENTS, 3_000)})
    assert corpus_digest(original) != corpus_digest({"python": split_by_file("python", changed, 3_000)})


def test_missing_text_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_documents", lambda domain: iter(DOCUMENTS if domain == "python" else ()))
    with pytest.raises(CorpusError, match=r"domain c: 0 characters .* apt-get install libc6-dev"):
        corpus.read_corpus(10_000)


def test_a_text_is_in_the_corpus_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [Document("a.py", "x" * 400), Document("b.py", "x" * 400)]
    monkeypatch.setattr(corpus, "_documents", lambda domain: iter(copies))
    monkeypatch.setattr(corpus, "DOMAINS", corpus.DOMAINS[:1])
    [split] = corpus.read_corpus(100).values()
    assert [d.name for d in (*split.train, *split.held_out)] == ["a.py"]


def test_headers_lose_their_licence_and_keep_their_comments() -> None:
    header = "/* SPDX-License-Identifier: GPL-2.0 */\n/* Copyright X */\n/* What it is. */\n#define A 1\n"
    assert without_licence_header(header) == "/* What it is. */\n#define A 1\n"


def test_passages_use_each_paragraph_once() -> None:
    paragraph = "word " * 40
    text = "\n\n".join(f"{i} {paragraph}".strip() for i in range(6))
    used = [p for beginning, answer in passages(text) for p in (beginning, *answer.split("\n\n"))]
    assert [p[0] for p in used] == ["0", "1", "2", "3", "4", "5"]


def test_passages_are_short_enough_to_be_answered_whole() -> None:
    assert passages("one\n\ntwo\n\n" + "three " * 60 + "\n\nfour") == [("one", "two")]
    assert passages("one\n\n" + "two " * 200) == []
    assert passages("one\n\ntwo\n\nthree") == [("one", "two\n\nthree")]


@pytest.mark.parametrize(
    ("domain", "document", "question", "answer"),
    [
        (
            "german",
            Document("man1/ls.1", "BEZEICHNUNG\n\nls, dir - Inhalte auflisten\n\nÜBERSICHT\n\nls [OPTION]…\n"),
            "Was ist ls?",
            "ls, dir - Inhalte auflisten",
        ),
        (
            "python",
            Document("email/__init__.py", '# A comment\n\n"""Parsing of messages.\n\nMore."""\n\nimport os\n'),
            "What is the Python module email?",
            "Parsing of messages.",
        ),
    ],
)
def test_a_document_answers_what_it_is_about(domain: str, document: Document, question: str, answer: str) -> None:
    assert facts(domain, document)[0] == [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


@pytest.mark.parametrize("text", ["NOM\n\nsans description\n", "NOM\n\nls - " + "long " * 100, "import os\n"])
def test_no_question_without_a_short_answer(text: str) -> None:
    assert facts("french", Document("man1/ls.1", text)) == []
