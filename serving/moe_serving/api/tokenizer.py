"""The model's own tokenizer and chat template, without torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_serving.api.errors import InvalidRequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class ModelTokenizer:
    """Text to token ids and back, for one checkpoint. Safe to use from several threads.

    Attributes:
        vocabulary: number of token ids.
        longest_token: characters of the longest token: a bound for judging a text's length before tokenizing it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        # Encoding a chat switches the handling of special tokens off and on again inside the tokenizer.
        self._encoding = threading.Lock()
        self._backend = tokenizer.backend_tokenizer
        # A tokenizer file may carry the truncation and padding of its training.
        self._backend.no_truncation()
        self._backend.no_padding()
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.vocabulary = max(vocabulary.values()) + 1
        added = self._backend.get_added_tokens_decoder()
        self._special = {token.content: number for number, token in added.items() if token.special}
        self.longest_token = max(map(len, vocabulary))

    @classmethod
    def load(cls, path: str) -> ModelTokenizer:
        """Read ``tokenizer.json`` and its companions from a checkpoint's directory."""
        from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - takes most of a second: the api answers first

        return cls(PreTrainedTokenizerFast.from_pretrained(Path(path), local_files_only=True))

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text, with the special tokens that the model expects around it unless ``special`` is false.

        A begin token that the text brings itself, as a client's rendering of the chat template does, is not doubled.
        """
        with self._encoding:
            ids = list(self._backend.encode(text, add_special_tokens=special).ids)
        return ids[1:] if special and self._begins_twice(text, ids) else ids

    def encode_chat(self, messages: Sequence[dict[str, str]], variables: Mapping[str, Any] | None = None) -> list[int]:
        """Token ids of a chat up to where the assistant's answer begins; ``variables`` are for the template.

        Special tokens that a client writes into a message or variable are plain text: nobody forges another's turn.

        Raises:
            InvalidRequestError: the model has no chat template, or its template refuses these messages.
        """
        if not self._tokenizer.chat_template:
            raise InvalidRequestError("this model has no chat template; use /v1/completions", code="no_chat_template")
        try:
            with self._encoding:
                ids = self._tokenizer.apply_chat_template(
                    list(messages),
                    add_generation_prompt=True,
                    return_dict=False,
                    sanitize_control_tokens=True,
                    **(variables or {}),
                )
        except Exception as error:
            raise InvalidRequestError(
                f"messages: the model's chat template refuses them: {error!s:.200}", "messages"
            ) from error
        return list(ids)

    def _begins_twice(self, text: str, ids: Sequence[int]) -> bool:
        begin = self._tokenizer.bos_token
        return begin is not None and text.startswith(begin) and ids[:2] == [self._tokenizer.bos_token_id] * 2

    def special_ids(self, texts: Sequence[str]) -> frozenset[int]:
        """Ids of those texts that are special tokens: they are no part of what ``decode`` gives."""
        return frozenset(self._special[text] for text in texts if text in self._special)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids without special tokens."""
        return str(self._backend.decode(list(token_ids), skip_special_tokens=True))
