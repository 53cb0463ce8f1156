"""What is measured, part by part; each returns what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

from benchmarks.gpu.answers import Batch, prompts
from benchmarks.gpu.card import CALLS, Card
from benchmarks.gpu.models import Size, build, lean, tables, tuning
from moe_serving.engine.experts import ExpertsClient, Pending
from moe_serving.gpu.attention import attend
from moe_serving.gpu.experts import compute_experts
from moe_serving.gpu.graph import DecodingGraph

Row = dict[str, Any]

BLOCK = 16
"""Tokens in a block of the cache."""
STEPS = 3
"""Of the engine, in each round."""
ROOM = 2 * CALLS
"""In transformers' cache: behind the prompt, tokens that are computed before it is rewound."""
NEAR = 1e-4
"""How near the two best logits of a token are, as a part of the largest, where rounding may choose either."""


def exactness(card: Card, size: Size, bandwidth: float) -> Iterator[Row]:
    """Greedy tokens in float32, ours and those of transformers' ``generate`` on the same device."""
    model = build(card, size, torch.float32, size.exact_layers)
    asked = prompts(max(size.batches[:2]), size.context, model.config.vocab_size).to(card.device)
    wanted, scores = _generated(model, asked, size.tokens)
    found = Batch(lean(card, model), asked, size.tokens).finish()
    equal = [own == theirs for own, theirs in zip(found, wanted, strict=True)]
    near = [_near(row, own, theirs) for row, own, theirs in zip(scores, found, wanted, strict=True)]
    wrong = sum(not (one or other) for one, other in zip(equal, near, strict=True))
    yield {"answers": len(equal), "equal": sum(equal), "wrong": wrong}


def _generated(model: Any, asked: Tensor, tokens: int) -> tuple[list[list[int]], list[Tensor]]:
    """Tokens of each, and its logits ``[tokens, vocabulary]``."""
    answers, scores = [], []
    for prompt in asked:
        out = model.generate(
            prompt[None], max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, output_logits=True,
            return_dict_in_generate=True, attention_mask=torch.ones_like(prompt[None]),
        )  # fmt: skip
        answers.append(out.sequences[0, len(prompt) :].tolist())
        scores.append(torch.cat(out.logits))
    return answers, scores


def _near(scores: Tensor, own: list[int], theirs: list[int]) -> bool:
    """Where two answers part, both tokens are as likely but for rounding."""
    for logits, one, other in zip(scores.float(), own, theirs, strict=True):
        if one != other:
            return float((logits[one] - logits[other]).abs()) <= NEAR * float(logits.abs().max())
    return True


def experts(card: Card, size: Size, bandwidth: float) -> Iterator[Row]:
    """The experts of a layer, one layer after the other so that none is still in a cache, as one graph."""
    model = build(card, size, size.dtype)
    layers, config = tables(model), model.config
    del model
    for batch in size.batches:
        rows = torch.randn(batch, config.hidden_size, device=card.device, dtype=size.dtype)
        picked = torch.rand(len(layers), batch, config.num_experts, device=card.device)
        ids = picked.topk(config.num_experts_per_tok).indices
        weights = torch.rand(batch, config.num_experts_per_tok, device=card.device)
        out = torch.empty_like(rows)

        def all_layers(rows: Tensor = rows, ids: Tensor = ids, weights: Tensor = weights, out: Tensor = out) -> None:
            for table, chosen in zip(layers, ids, strict=True):
                compute_experts(rows, chosen, weights, table, out, tuning(card, size.dtype))

        touched = sum(len(chosen.unique()) for chosen in ids) * _expert_bytes(config, size.dtype)
        seconds = card.seconds(card.graphed(all_layers), size.rounds)
        yield {"batch": batch, "us_a_layer": seconds / len(layers) * 1e6, "of_limit": touched / bandwidth / seconds}


def _expert_bytes(config: Any, dtype: torch.dtype) -> int:
    return 3 * int(config.hidden_size) * int(config.moe_intermediate_size) * dtype.itemsize


def attention(card: Card, size: Size, bandwidth: float) -> Iterator[Row]:
    """One new token of many sequences, of a quarter to four times the context, in scattered blocks."""
    fields = size.fields
    heads, kv_heads, width = (int(fields[n]) for n in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    for batch in size.attended:
        longest = 4 * size.context
        lengths = torch.linspace(max(1, size.context // 4), longest, batch, device=card.device).long()
        blocks = -(-longest // BLOCK)
        order = torch.randperm(batch * blocks, device=card.device) * BLOCK
        keys, values = (
            torch.randn(batch * blocks * BLOCK, kv_heads, width, device=card.device, dtype=size.dtype) for _ in "kv"
        )
        query = torch.randn(batch, heads, width, device=card.device, dtype=size.dtype)
        out, tokens = torch.empty_like(query), torch.arange(batch, device=card.device)
        step = (
            query,
            tokens,
            order.reshape(batch, blocks),
            BLOCK,
            0 * lengths,
            lengths,
            width**-0.5,
            keys,
            values,
            out,
        )
        seconds = card.seconds(card.graphed(lambda step=step: attend(*step)), size.rounds)
        touched = 2 * int(lengths.sum()) * kv_heads * width * size.dtype.itemsize
        yield {"sequences": batch, "us": seconds * 1e6, "of_limit": touched / bandwidth / seconds}


def decoding(card: Card, size: Size, bandwidth: float) -> Iterator[Row]:
    """A step: ours as one graph, ours as the engine runs it, transformers with a static cache and as one graph."""
    model = build(card, size, size.dtype)
    for batch in size.batches:
        asked = prompts(batch, size.context, model.config.vocab_size).to(card.device)
        ours = lean(card, model)
        steps = STEPS * size.rounds
        decoded = Batch(ours, asked, steps + 8)
        decoded.prefill()
        touched = _step_bytes(decoded, model)
        inputs, cache = decoded.inputs(), decoded.runner.cache
        if card.interpreted:
            call: Callable[[], object] = lambda d=decoded, i=inputs, c=cache: d.lean.compute(i, (), c)  # noqa: E731
        else:
            call = DecodingGraph(decoded.lean, cache, inputs).replay
        graph = card.seconds(call, size.rounds)
        row = {"batch": batch, "graph_ms": graph * 1e3, "of_limit": touched / bandwidth / graph, "bytes": touched}
        yield row
        row["engine_ms"] = card.waited(decoded.step, steps) * 1e3
        yield row
        theirs = _transformers_seconds(card, model, asked, size.rounds)
        row.update(transformers_ms=theirs * 1e3, ratio=theirs / graph)
        yield row


def _step_bytes(batch: Batch, model: Any) -> int:
    """That a step must read at least: weights of what it multiplies with, chosen experts, keys and values."""
    client, config = _Counting(batch.lean.experts), model.config
    batch.lean.experts = client
    batch.step()
    batch.lean.experts = client.inner
    dense = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if "experts" not in name and "embed" not in name
    )
    cached = sum(answer.computed for answer in batch.answers)
    kept = 2 * cached * config.num_key_value_heads * config.head_dim * config.num_hidden_layers
    return (dense + kept) * model.dtype.itemsize + client.touched * _expert_bytes(config, model.dtype)


class _Counting(ExpertsClient):
    """Counts the experts that another client has to read."""

    def __init__(self, inner: ExpertsClient) -> None:
        self.inner = inner
        self.touched = 0

    def submit(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Pending:
        self.touched += len(expert_ids.unique())
        return self.inner.submit(layer, hidden, expert_ids, weights)


def _transformers_seconds(card: Card, model: Any, asked: Tensor, rounds: int) -> float:
    """Of a step behind ``asked``, with a static cache and as a graph."""
    length = asked.shape[1]
    cache = StaticCache(config=model.config, max_cache_len=length + ROOM)
    with torch.inference_mode():
        model(input_ids=asked, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = asked[:, -1:].clone()
    position = torch.full_like(token, length)

    @torch.inference_mode()
    def step() -> Tensor:
        logits: Tensor = model(input_ids=token, position_ids=position, past_key_values=cache, use_cache=True).logits
        return logits

    def rewind() -> None:
        for layer in cache.layers:
            layer.cumulative_length.fill_(length)

    return card.seconds(card.graphed(step), rounds, rewind)


PARTS: dict[str, Callable[[Card, Size, float], Iterator[Row]]] = {
    "exactness in float32": exactness,
    "decoding": decoding,
    "experts": experts,
    "attention": attention,
}
"""The most important first."""
