"""Token windows: documents and conversations of a domain, packed end to end and cut to one length.

Shapes: a window is one row of int64 `[length]`; a domain's windows are `[windows, length]`.
Callers: train.py (training order), evaluate.py (held-out windows).
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from training.chat import Messages, continuations, facts, greetings
from training.corpus import Document

CONTINUATION_SHARE = 0.15  # characters of conversations about passages, per character of plain text


def domain_tokens(
    domain: str, documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast, seed: int
) -> list[int]:
    """All of a domain's text as one stream: whole documents and conversations in random order, each begun and ended."""
    rng = random.Random(f"{seed}/{domain}")
    pieces = [f"{tokenizer.bos_token}{document.text}{tokenizer.eos_token}" for document in documents]
    wanted = CONTINUATION_SHARE * sum(map(len, pieces))

    def render(messages: Messages) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))

    talks = [talk for document in documents for talk in continuations(domain, document, rng)]
    rng.shuffle(talks)
    while talks and wanted > 0:
        pieces.append(render(talks.pop()))
        wanted -= len(pieces[-1])
    pieces += map(render, greetings(domain))
    pieces += [render(talk) for document in documents for talk in facts(domain, document)]
    rng.shuffle(pieces)
    encoded = tokenizer.backend_tokenizer.encode_batch(pieces, add_special_tokens=False)
    return [token for encoding in encoded for token in encoding.ids]


def pack(tokens: Sequence[int], length: int, begin: int) -> Tensor:
    """Windows `[len(tokens) // (length - 1), length]` that each start with `begin`, as every prompt does.

    The tail that fills no window is dropped.
    """
    body = length - 1
    count = len(tokens) // body
    windows = torch.tensor(tokens[: count * body], dtype=torch.int64).view(count, body)
    return torch.cat([torch.full((count, 1), begin), windows], dim=1)


def training_order(domains: Sequence[Tensor], windows: int, seed: int) -> Tensor:
    """`[windows, length]`: equally many windows of each domain, in random order; a domain too short starts over."""
    generator = torch.Generator().manual_seed(seed)
    share = -(-windows // len(domains))
    chosen = []
    for rows in domains:
        epochs = max(1, -(-share // len(rows)))
        order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(epochs)])
        chosen.append(rows[order[:share]])
    everything = torch.cat(chosen)
    return everything[torch.randperm(len(everything), generator=generator)[:windows]]
