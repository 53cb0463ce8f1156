"""A small language model with wide routing (64 experts, top-8), trained only to have whole expert sets to measure on.

``python -m benchmarks.brain.wide_model --train`` trains it (about 12 minutes of one core) and writes
``traces/wide-64x8.npz``; ``--tiny`` records ``models/tiny`` into ``traces/tiny-16x2.npz``. The weights are not kept.
Text: the corpus of ``models/training``, whole documents; those recorded are never trained on. Token embeddings are
those of ``models/tiny``, projected, so that what little is learnt goes into attention, gates and experts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from moe_placement.traces import Trace, write_trace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models"))

WIDTH, HEADS, LAYERS, EXPERTS, TOP_K, INNER, LENGTH, BATCH = 128, 4, 4, 64, 8, 16, 128, 16
BALANCE = 0.01
RECORDED_DOCUMENTS, RECORDED_TOKENS = 96, 80
"""Per domain, and tokens per document."""


class Mixture(nn.Module):
    """64 experts of width 16 as one wide layer whose blocks the gate scales: exact, and quick at this size."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Linear(WIDTH, EXPERTS * INNER, bias=False)
        self.down = nn.Linear(EXPERTS * INNER, WIDTH, bias=False)
        self.chosen: Tensor | None = None
        self.weights: Tensor | None = None
        self.penalty = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        probability = self.gate(x).softmax(-1)
        weights, chosen = probability.topk(TOP_K, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        self.chosen, self.weights = chosen.detach(), weights.detach()
        mask = torch.zeros_like(probability).scatter(-1, chosen, weights)
        used = (mask > 0).float().mean((0, 1))
        self.penalty = EXPERTS / TOP_K * (used * probability.mean((0, 1))).sum()
        inner = F.relu(self.up(x)).square() * mask.repeat_interleave(INNER, dim=-1) * TOP_K
        return self.down(inner)


class Block(nn.Module):
    """Pre-norm attention, then the mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.mixture = Mixture()

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        parts = self.qkv(self.before(x)).view(rows, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, WIDTH))
        return x + self.mixture(self.between(x))


class Wide(nn.Module):
    """Frozen embeddings, learnt everything else; the head reads the embeddings back."""

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.register_buffer("embedding", F.normalize(embedding.float(), dim=-1) * 4)
        self.enter = nn.Linear(embedding.shape[1], WIDTH, bias=False)
        self.position = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        self.leave = nn.Linear(WIDTH, embedding.shape[1], bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.enter(self.embedding[ids]) + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x)) @ self.embedding.T


def documents(
    per_domain: int, characters: int = 1_500_000
) -> tuple[list[tuple[int, list[int]]], list[tuple[int, list[int]]], tuple[str, ...]]:
    """(training, recorded, names of domains): documents as (domain, token ids), every second one recorded, of a corpus
    of about so many ``characters`` of each kind.
    """
    from training.corpus import DOMAINS, read_corpus  # noqa: PLC0415 - models/ is put on the path above

    tokenizer = Tokenizer.from_file(str(ROOT / "models/tiny/tokenizer.json"))
    names = tuple(domain.name for domain in DOMAINS)
    corpus = read_corpus(characters)
    training: list[tuple[int, list[int]]] = []
    recorded: list[tuple[int, list[int]]] = []
    for number, name in enumerate(names):
        taken = 0
        for position, document in enumerate(corpus[name].held_out + corpus[name].train):
            ids = tokenizer.encode(document.text[:4000]).ids
            if len(ids) < LENGTH + 1:
                continue
            if position % 2 == 0 and taken < per_domain:
                recorded.append((number, ids))
                taken += 1
            elif position % 2:
                training.append((number, ids))
    return training, recorded, names


def train(model: Wide, training: list[tuple[int, list[int]]], seconds: float) -> None:
    """Until ``seconds`` of CPU time are spent."""
    random = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.95))
    begin, step = time.process_time(), 0
    while (spent := time.process_time() - begin) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 30) * max(0.05, 1 - spent / seconds)
        rows = []
        for pick in random.integers(len(training), size=BATCH):
            ids = training[pick][1]
            start = int(random.integers(len(ids) - LENGTH))
            rows.append(ids[start : start + LENGTH + 1])
        batch = torch.tensor(rows)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        penalty = sum(block.mixture.penalty for block in model.blocks)
        optimizer.zero_grad()
        (loss + BALANCE * penalty).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            print(
                f"step {step}, {spent:.0f} s of CPU, loss {loss.item():.3f}, balance {float(penalty):.2f}", flush=True
            )


def record_wide(model: Wide, recorded: list[tuple[int, list[int]]], names: tuple[str, ...]) -> Trace:
    """One forward pass per document."""
    ids, gates, prompts, domains = [], [], [], []
    with torch.no_grad():
        for prompt, (domain, tokens) in enumerate(recorded):
            model(torch.tensor([tokens[:LENGTH]]))
            layers = [block.mixture for block in model.blocks]
            ids.append(torch.stack([m.chosen[0] for m in layers], 1)[-RECORDED_TOKENS:].numpy())
            gates.append(torch.stack([m.weights[0] for m in layers], 1)[-RECORDED_TOKENS:].numpy())
            prompts += [prompt] * RECORDED_TOKENS
            domains += [domain] * RECORDED_TOKENS
    return Trace(
        np.concatenate(ids), EXPERTS, np.array(prompts), np.array(domains), names, np.concatenate(gates)
    )  # fmt: skip


def record_tiny(recorded: list[tuple[int, list[int]]], names: tuple[str, ...]) -> Trace:
    """The project's own model, its gates' choices and weights taken from the logits of its routers."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - slow to import, only for this

    model = AutoModelForCausalLM.from_pretrained(ROOT / "models/tiny", dtype=torch.float32)
    config = model.config
    ids, gates, prompts, domains = [], [], [], []
    with torch.no_grad():
        for prompt, (domain, tokens) in enumerate(recorded):
            out = model(torch.tensor([tokens[:LENGTH]]), output_router_logits=True)
            best = [logits.topk(config.num_experts_per_tok) for logits in out.router_logits]
            ids.append(torch.stack([chosen for _, chosen in best], 1)[-RECORDED_TOKENS:].numpy())
            # Mixtral's gates: a softmax over all experts, renormalised over those chosen.
            gates.append(torch.stack([logit.softmax(-1) for logit, _ in best], 1)[-RECORDED_TOKENS:].numpy())
            prompts += [prompt] * RECORDED_TOKENS
            domains += [domain] * RECORDED_TOKENS
    return Trace(
        np.concatenate(ids), int(config.num_experts), np.array(prompts), np.array(domains), names,
        np.concatenate(gates),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="train the wide model and record it")
    parser.add_argument("--tiny", action="store_true", help="record models/tiny")
    parser.add_argument("--cpu-seconds", type=float, default=700, help="CPU time for training")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    training, recorded, names = documents(RECORDED_DOCUMENTS)
    print(f"{len(training)} documents to train on, {len(recorded)} to record", flush=True)
    if arguments.tiny:
        write_trace(ROOT / "traces/tiny-16x2.npz", record_tiny(recorded, names))
    if arguments.train:
        weights = load_file(str(ROOT / "models/tiny/model.safetensors"))
        model = Wide(weights["model.embed_tokens.weight"])
        train(model, training, arguments.cpu_seconds)
        write_trace(ROOT / "traces/wide-64x8.npz", record_wide(model, recorded, names))


if __name__ == "__main__":
    main()
