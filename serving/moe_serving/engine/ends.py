"""The tokens that end a model's answers, wherever its files name them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from moe_serving.checkpoint.generation import read_generation_config

_MARK = "zqanswerqz"
"""Stands for an answer; no template writes it."""

_log = logging.getLogger(__name__)


def end_token_ids(path: Path, config: PreTrainedConfig) -> frozenset[int]:
    """Of ``config.json``, ``generation_config.json``, the tokenizer, and what its chat template puts behind an answer.

    Files disagree in practice: a model that is tuned for chats may keep the end token of the texts it was trained on in
    one and name the one of its turns in another, and an answer that runs over either never ends.

    Raises:
        ModelError: ConfigInvalid, ``generation_config.json`` cannot be read.
    """
    named = _ids(getattr(config, "eos_token_id", None)) | _ids(read_generation_config(path).get("eos_token_id"))
    return named | _of_tokenizer(path)


def _ids(named: Any) -> frozenset[int]:
    ids = named if isinstance(named, list) else [named]
    return frozenset(id for id in ids if isinstance(id, int) and not isinstance(id, bool) and id >= 0)


def _of_tokenizer(path: Path) -> frozenset[int]:
    try:
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - transformers and tokenizers raise whatever they like; the api tells it
        _log.warning("no end token is known from the tokenizer of %s, which cannot be loaded: %s", path, error)
        return frozenset()
    return _ids(tokenizer.eos_token_id) | _of_template(tokenizer)


def _of_template(tokenizer: Any) -> frozenset[int]:
    """The special token that follows an answer in the chat template, if one does."""
    if not tokenizer.chat_template:
        return frozenset()
    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _MARK}]
    try:
        rendered: str = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception as error:  # noqa: BLE001 - a template is a program of the model's makers
        _log.warning("no end token is known from the chat template, which refuses a question and an answer: %s", error)
        return frozenset()
    behind = rendered.rpartition(_MARK)[2].lstrip()
    special = {token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = [content for content in special if content and behind.startswith(content)]
    return frozenset([special[max(ends, key=len)]]) if ends else frozenset()
