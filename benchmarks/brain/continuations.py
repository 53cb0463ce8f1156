"""Record what ``models/tiny`` routes while it reads prompts, and while it writes on from them.

``python -m benchmarks.brain.continuations`` writes ``traces/tiny-continued.npz`` (a minute or two of one core). Prompts
are the beginnings of documents of ``models/training``; continuations are drawn from the model with a fixed seed, token
by token. A kind of text has two domains in the file, ``KIND: prompt`` and ``KIND: continuation``; a prompt and what
continues it have the same number.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.brain.figure_shift import CONTINUATION, CONTINUED, PROMPT
from benchmarks.brain.wide_model import ROOT, documents
from moe_placement.traces import Trace, write_trace

PROMPTS, READ, WRITTEN = 64, 64, 64
"""Prompts of each kind of text, tokens of each, and tokens that each is continued by."""
CHARACTERS = 700_000
"""Of each kind of text, so that prompts can be had where few manual pages are installed."""
TEMPERATURE = 0.8
"""Greedily so small a model soon repeats itself."""


def record(model: PreTrainedModel, prompts: list[tuple[int, list[int]]], kinds: tuple[str, ...]) -> Trace:
    """Prompts as (number of the kind, token ids); after each prompt's tokens come those that continue it."""
    ids, domains = [], []
    for kind in range(len(kinds)):
        rows = torch.tensor([tokens[:READ] for of_kind, tokens in prompts if of_kind == kind])
        whole = model.generate(
            rows, attention_mask=torch.ones_like(rows), do_sample=True, temperature=TEMPERATURE, top_k=0,
            min_new_tokens=WRITTEN, max_new_tokens=WRITTEN,
        )  # fmt: skip
        ids.append(_chosen(model, whole).reshape(-1, model.config.num_hidden_layers, model.config.num_experts_per_tok))
        domains.append(np.tile(np.repeat([2 * kind, 2 * kind + 1], [READ, WRITTEN]), len(rows)))
    prompt = np.arange(sum(map(len, domains))) // (READ + WRITTEN)
    names = tuple(f"{kind}{phase}" for kind in kinds for phase in (PROMPT, CONTINUATION))
    return Trace(np.concatenate(ids), int(model.config.num_experts), prompt, np.concatenate(domains), names)


def _chosen(model: PreTrainedModel, tokens: Tensor) -> NDArray[np.int64]:
    """``[rows, tokens, layers, k]`` experts that the gates choose. No token sees a later one, so what is read at once
    is routed as what was written token by token.
    """
    with torch.no_grad():
        logits = model(tokens, output_router_logits=True).router_logits
    layers = [of_layer.reshape(*tokens.shape, -1).topk(model.config.num_experts_per_tok).indices for of_layer in logits]
    return torch.stack(layers, dim=2).numpy()


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    _, recorded, kinds = documents(PROMPTS, CHARACTERS)
    model = AutoModelForCausalLM.from_pretrained(ROOT / "models/tiny", dtype=torch.float32)
    write_trace(CONTINUED, record(model, recorded, kinds))


if __name__ == "__main__":
    main()
