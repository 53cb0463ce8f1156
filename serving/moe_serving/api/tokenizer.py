"""The model's own tokenizer and chat template, without torch."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from moe_serving.api.errors import InvalidRequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


_BEGIN, _END = "\U000f0000", "\U000f0001"
"""Around what is to be plain text in a rendered chat, such as a special token in a message, transformers puts these.
Nobody can send them: they are taken out of messages."""
_MARKED = re.compile(f"{_BEGIN}[^{_BEGIN}{_END}]+{_END}")


class ModelTokenizer:
    """Text to token ids and back, for one checkpoint. Safe to use from several threads.

    Attributes:
        vocabulary: number of token ids.
        longest_token: characters of the longest token: a bound for judging a text's length before tokenizing it.
        special: ids of the special tokens by their texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer: Any = tokenizer
        self._backend = tokenizer.backend_tokenizer
        # A tokenizer file may carry the truncation and padding of its training.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._pieces = _ChatPieces(tokenizer, self._backend)
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.vocabulary = max(vocabulary.values()) + 1
        added = self._backend.get_added_tokens_decoder()
        self.special = {token.content: number for number, token in added.items() if token.special}
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
        ids = list(self._backend.encode(text, add_special_tokens=special).ids)
        return ids[1:] if special and self._begins_twice(text, ids) else ids

    def render_chat(self, messages: Sequence[dict[str, str]], variables: Mapping[str, Any] | None = None) -> str:
        """A chat up to where the assistant's answer begins, for ``encode_rendered``. ``variables``: for the template.

        Special tokens that a client writes into a message or variable are marked: they are plain text, so that nobody
        forges another's turn.

        Raises:
            InvalidRequestError: the model has no chat template, or its template refuses these messages.
        """
        if not self._tokenizer.chat_template:
            raise InvalidRequestError("this model has no chat template; use /v1/completions", code="no_chat_template")
        try:
            template = self._tokenizer.get_chat_template()
            (chat,), _, _, marked = self._tokenizer._mark_chat_inputs(
                template, [list(messages)], None, None, dict(variables or {}), True, False
            )
            rendered: str = self._tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, **marked
            )
        except Exception as error:
            # What a template says itself is for the client; the texts of other errors are Python's own.
            said = str(error)[:200] if isinstance(error, TemplateError) else type(error).__name__
            raise InvalidRequestError(
                f"messages: the model's chat template refuses them: {said}", "messages"
            ) from error
        return rendered

    def encode_rendered(self, chat: str) -> list[int]:
        """Token ids of what ``render_chat`` gave.

        Raises:
            InvalidRequestError: the tokenizer cannot tell a special token from its text.
        """
        from transformers.utils.chat_template_utils import encode_marked_chat  # noqa: PLC0415 - see ``load``

        try:
            return list(encode_marked_chat(self._pieces, chat))
        except ValueError as error:
            raise InvalidRequestError(f"messages: {error!s:.200}", "messages") from error

    def encode_chat(self, messages: Sequence[dict[str, str]], variables: Mapping[str, Any] | None = None) -> list[int]:
        """Both at once."""
        return self.encode_rendered(self.render_chat(messages, variables))

    def least_tokens(self, text: str) -> int:
        """A bound that costs little: no rendered chat has fewer tokens."""
        characters = len(text) - text.count(_BEGIN) - text.count(_END)
        return max(-(-characters // self.longest_token), sum(1 for _ in _MARKED.finditer(text)))

    def _begins_twice(self, text: str, ids: Sequence[int]) -> bool:
        begin = self._tokenizer.bos_token
        return begin is not None and text.startswith(begin) and ids[:2] == [self._tokenizer.bos_token_id] * 2

    def special_ids(self, texts: Sequence[str]) -> frozenset[int]:
        """Ids of those texts that are special tokens: they are no part of what ``decode`` gives."""
        return frozenset(self.special[text] for text in texts if text in self.special)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids without special tokens."""
        return str(self._backend.decode(list(token_ids), skip_special_tokens=True))


class _ChatPieces:
    """What transformers' ``encode_marked_chat`` asks of a tokenizer, from two that never change, so that any number of
    threads may ask: its own switches the handling of special tokens to and fro in the only one it has.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, backend: Tokenizer) -> None:
        self.added_tokens_encoder = tokenizer.added_tokens_encoder
        self.convert_tokens_to_ids = tokenizer.convert_tokens_to_ids
        self._special = backend
        self._special.encode_special_tokens = False
        self._plain = copy.deepcopy(backend)
        self._plain.encode_special_tokens = True

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._special.encode(text, add_special_tokens=add_special_tokens).ids)

    def _encode_without_added_tokens(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)
