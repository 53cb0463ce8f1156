"""What the stored model does on held-out files: loss per domain, and which experts each domain uses.

Boundary: a model and windows in, numbers out. Callers: cli.py, tests/model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3MoeForCausalLM

from training.corpus import Document
from training.dataset import pack
from training.model import token_losses

WINDOW = 256  # tokens
BATCH = 16  # windows


@dataclass(frozen=True, slots=True)
class Measurement:
    """Sums over windows, so that measurements add up.

    `nats`: total loss of the `tokens` predicted, which are `text_bytes` bytes of text. `pairs`: `[layers, experts]`,
    the token-expert pairs each expert got.
    """

    tokens: int
    text_bytes: int
    nats: float
    pairs: NDArray[np.int64]

    def __add__(self, other: "Measurement") -> "Measurement":
        return Measurement(
            self.tokens + other.tokens,
            self.text_bytes + other.text_bytes,
            self.nats + other.nats,
            self.pairs + other.pairs,
        )

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """The loss in a unit comparable between domains, whose tokens differ in length."""
        return self.nats / math.log(2) / self.text_bytes

    @property
    def load(self) -> NDArray[np.float64]:
        """Each expert's share of its layer's pairs, `[layers, experts]`; rows sum to 1."""
        return self.pairs / self.pairs.sum(axis=1, keepdims=True)


@dataclass(frozen=True, slots=True)
class DomainMeasurement:
    """A domain's held-out files as a whole, and the distance of the loads of one half of the files from the other's."""

    whole: Measurement
    split_half_distance: float


def measure_domain(
    model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]
) -> DomainMeasurement:
    """Measures whole files; the halves are every second file, so no file is in both."""
    first, second = (
        measure(model, tokenizer, document_windows(tokenizer, [d.text for d in documents[start::2]]))
        for start in (0, 1)
    )
    return DomainMeasurement(first + second, load_distance(first.load, second.load))


def document_windows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """`[windows, WINDOW]` of the texts one after the other, each begun and ended."""
    pieces = [f"{tokenizer.bos_token}{text}{tokenizer.eos_token}" for text in texts]
    encoded = tokenizer.backend_tokenizer.encode_batch(pieces, add_special_tokens=False)
    return pack([token for encoding in encoded for token in encoding.ids], WINDOW, tokenizer.bos_token_id)


@torch.inference_mode()
def measure(model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, windows: Tensor) -> Measurement:
    """Loss and routing over `windows` `[windows, length]`; the first token of a window is given, not predicted."""
    config = model.config
    pairs = torch.zeros(config.num_hidden_layers, config.num_experts, dtype=torch.int64)
    nats = 0.0
    for batch in windows.split(BATCH):
        output = model(input_ids=batch, output_router_logits=True, use_cache=False)
        nats += token_losses(output.logits, batch).double().sum().item()
        for layer, logits in enumerate(output.router_logits):
            chosen = logits.topk(config.num_experts_per_tok, dim=-1).indices
            pairs[layer] += torch.bincount(chosen.flatten(), minlength=config.num_experts)
    predicted = windows[:, 1:]
    text_bytes = sum(len(text.encode()) for text in tokenizer.batch_decode(predicted))
    return Measurement(predicted.numel(), text_bytes, nats, pairs.numpy())


def load_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Total variation distance of two `[layers, experts]` loads, the mean over layers: 0 equal, 1 no expert shared."""
    return float(0.5 * np.abs(first - second).sum(axis=1).mean())
