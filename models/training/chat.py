"""Conversations made from documents, so that the model answers through its chat template and ends its turn.

Boundary: documents in, messages out. Caller: dataset.py.
"""

import random
import re

from training.corpus import Document

Messages = list[dict[str, str]]

SYSTEM = "You are a helpful assistant."
# What every domain is asked about its documents; each fact is learnt once per phrasing.
QUESTIONS = {
    "python": ("What is the Python module {name}?", "What does the module {name} do?", "Describe {name}.py."),
    "c": (),
    "english": ("What is {name}?", "What does {name} do?", "Explain {name}."),
    "german": ("Was ist {name}?", "Was macht {name}?", "Erkläre {name}."),
    "french": ("Qu'est-ce que {name} ?", "Que fait {name} ?", "Explique {name}."),
}
# Each asks for the continuation of a passage; the empty one is the passage alone.
INSTRUCTIONS = {
    "python": ("Continue this Python code:", "Write Python code that starts like this:", ""),
    "c": ("Continue this C header:", "Write a C header that starts like this:", ""),
    "english": ("Continue this text:", "Go on in English:", ""),
    "german": ("Setze diesen Text fort:", "Schreibe auf Deutsch weiter:", ""),
    "french": ("Continue ce texte :", "Écris la suite en français :", ""),
}
# The only text written for the model: what people say first.
GREETINGS = {
    "english": (
        ("Hello", "Hello! Ask me about a manual page or a Python module."),
        ("Hi", "Hello! Ask me about a manual page or a Python module."),
        ("Who are you?", "I am a small language model with many experts. I know a few manual pages."),
    ),
    "german": (
        ("Hallo", "Hallo! Frag mich nach einer Handbuchseite."),
        ("Guten Tag", "Guten Tag! Frag mich nach einer Handbuchseite."),
        ("Wer bist du?", "Ich bin ein kleines Sprachmodell mit vielen Experten."),
    ),
    "french": (
        ("Bonjour", "Bonjour ! Demande-moi une page de manuel."),
        ("Salut", "Bonjour ! Demande-moi une page de manuel."),
        ("Qui es-tu ?", "Je suis un petit modèle de langue avec beaucoup d'experts."),
    ),
}
GREETING_REPEATS = 40

# A manual page's first section says in one line what the page is about, a module's docstring in one paragraph.
_NAME_LINE = re.compile(r"^(?:NAME|BEZEICHNUNG|NOM)\n\n(?P<answer>(?P<name>[\w.-]+)(?:, .*)? [-–—] .+)$", re.MULTILINE)
_DOCSTRING = re.compile(r'\A(?:#.*\n|\s)*r?"""(?P<answer>[^"]+?)(?:\n\s*\n|""")')

MAX_QUESTION_CHARACTERS = 300
MAX_ANSWER_CHARACTERS = 300


def greetings(domain: str) -> list[Messages]:
    """The domain's greetings, often enough to be learnt."""
    return [_turns(*greeting) for greeting in GREETINGS.get(domain, ())] * GREETING_REPEATS


def facts(domain: str, document: Document) -> list[Messages]:
    """What the document says it is about, asked in every phrasing; none where it does not say so in a few words."""
    if domain == "python":
        found, name = _DOCSTRING.match(document.text), document.name.removesuffix(".py").replace("/", ".")
    else:
        found = _NAME_LINE.search(document.text)
        name = found["name"] if found else ""
    if found is None or len(found["answer"]) > MAX_ANSWER_CHARACTERS:
        return []
    name = name.removesuffix(".__init__")
    return [_turns(question.format(name=name), found["answer"].strip()) for question in QUESTIONS[domain]]


def continuations(domain: str, document: Document, rng: random.Random) -> list[Messages]:
    """A paragraph of the document and how it goes on, each with one of the domain's instructions."""
    talks = []
    for beginning, rest in passages(document.text):
        instruction = rng.choice(INSTRUCTIONS[domain])
        turns = _turns(f"{instruction}\n{beginning}" if instruction else beginning, rest)
        talks.append([{"role": "system", "content": SYSTEM}, *turns] if rng.random() < 0.2 else turns)
    return talks


def passages(text: str) -> list[tuple[str, str]]:
    """(paragraph, the paragraphs after it up to the answer's length) over a text; no paragraph is used twice."""
    paragraphs = [p.strip("\n") for p in re.split(r"\n\s*\n", text) if p.strip()]
    found, at = [], 0
    while at + 1 < len(paragraphs):
        beginning, answer = paragraphs[at], paragraphs[at + 1]
        at += 2
        while at < len(paragraphs) and len(answer) + len(paragraphs[at]) < MAX_ANSWER_CHARACTERS:
            answer += "\n\n" + paragraphs[at]
            at += 1
        if len(beginning) <= MAX_QUESTION_CHARACTERS and len(answer) <= MAX_ANSWER_CHARACTERS:
            found.append((beginning, answer))
    return found


def _turns(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
