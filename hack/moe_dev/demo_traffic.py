"""Requests of one kind of text, some at a time, one after the other, and how many tokens come of them."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import openai

from moe_dev.demo_client import ANSWER_SECONDS

STREAMS = 6
TOKENS = 48

PYTHON = (
    "def read_lines(path):\n",
    "import os\nimport sys\n\ndef main():\n",
    "class Parser:\n    def __init__(self, text):\n",
    "    for key, value in items:\n        if value is None:\n",
    "try:\n    import json\nexcept ImportError:\n",
    "    def __repr__(self):\n        return ",
)
GERMAN = (
    "Die Option gibt an, ob die Datei ",
    "Der Befehl liest die Eingabe und schreibt ",
    "Wenn das Verzeichnis nicht existiert, wird ",
    "BESCHREIBUNG\n       Dieses Programm zeigt ",
    "Die folgenden Werte werden unterstützt: ",
    "Siehe auch die Handbuchseite von ",
)


class Traffic:
    """Counts tokens of the answers that are there; `failure` is what went wrong first, if anything did."""

    def __init__(self, url: str, model: str, prompts: Sequence[str]) -> None:
        self._url, self._model, self._prompts = url, model, prompts
        self._lock = threading.Lock()
        self._numbers = count()
        self._tokens = 0
        self._ended = threading.Event()
        self.failure: Exception | None = None

    @property
    def tokens(self) -> int:
        """Of all answers so far."""
        with self._lock:
            return self._tokens

    def rate(self, seconds: float) -> float:
        """Tokens in a second, over the next so many."""
        begun, before = time.monotonic(), self.tokens
        self._ended.wait(seconds)
        return (self.tokens - before) / (time.monotonic() - begun)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """While the block lasts, there is traffic; answers under way are waited for."""
        threads = [threading.Thread(target=self._run, name=f"traffic {n}", daemon=True) for n in range(STREAMS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(ANSWER_SECONDS)

    def _run(self) -> None:
        with openai.OpenAI(base_url=self._url, api_key="none", max_retries=0, timeout=ANSWER_SECONDS) as client:
            while not self._ended.is_set():
                try:
                    self._ask(client)
                except openai.OpenAIError as error:
                    self.failure = self.failure or error
                    self._ended.set()

    def _ask(self, client: openai.OpenAI) -> None:
        with self._lock:
            number = next(self._numbers)
        answer = client.completions.create(
            model=self._model,
            prompt=self._prompts[number % len(self._prompts)],
            max_tokens=TOKENS,
            temperature=0.7,
            seed=number,
            extra_body={"ignore_eos": True},
        )
        with self._lock:
            self._tokens += answer.usage.completion_tokens if answer.usage else 0
