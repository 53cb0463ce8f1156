"""The arithmetic of a shard: rows in, weighted sums out.

Per expert ``down(act(gate(x)) * up(x))`` as transformers' eager experts compute it. Two differences in order only: the
gate weight is applied before the down projection (it is the smaller tensor), and sums are kept in float32.

Where rows are grouped by expert, a product ``X W^T`` in bfloat16 on a CPU is computed as ``(W X^T)^T``: so a few rows
are rearranged (`products`), and not, at each step, all weights, which are read once and no more then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, relu, silu

from moe_serving.checkpoint.reader import ExpertWeights
from moe_serving.experts.messages import ComputeReply, ComputeRequest
from moe_serving.experts.pool import ExpertPool
from moe_serving.fp8.weights import UnpackedExperts
from moe_serving.products import rearranges_right
from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.transport import Message

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": silu, "gelu": gelu, "relu": relu}


Held = Mapping[int, ExpertWeights]
"""Of a layer, by number: what the shard holds of the experts that a request names."""


def answer_compute(pool: ExpertPool, message: Message, device: torch.device) -> Message:
    """The answer to a message with what ``pool`` holds, packed if its rows are.

    Raises:
        ProtocolError: it makes no sense, or is about rows of another model.
    """
    asked, form = ComputeRequest.from_message(message), pool.form
    request = asked.unpacked(form.rows_dtype)
    if request.hidden.dtype != form.rows_dtype or request.hidden.shape[1] != form.hidden:
        got = f"{request.hidden.dtype} {list(request.hidden.shape)}"
        raise ProtocolError(f"this shard serves rows of {form.hidden} {form.rows_dtype}, got {got}")
    with pool.pinned(request.layer, request.experts.tolist()) as slots:
        held: Held = {expert: slot.weights for expert, slot in slots.items()}
        if form.unpacked is not None:
            held = UnpackedExperts(held, form)
        return compute(held, request, device).to_message(packed=asked.scales is not None)


def compute(held: Held, request: ComputeRequest, device: torch.device) -> ComputeReply:
    """Answer a request with what is ``held``; the reply is on the CPU."""
    if request.per_pair:
        return _pair_outputs(held, request, device)
    if len(request.hidden) == 1:
        return _single_row(held, request, device)
    return _grouped_by_expert(held, request, device)


def pair_output(weights: ExpertWeights, row: Tensor, gate_weight: float) -> Tensor:
    """One expert's weighted output for one row ``[1, H]`` → float32 ``[1, H]``.

    The unit of verify mode: computed here on its own it has the same bits wherever and in whatever batch it is done.
    """
    return linear(_activate(weights, row), weights.down).float() * gate_weight


def _activate(weights: ExpertWeights, rows: Tensor) -> Tensor:
    gate, up = linear(rows, weights.gate_up).chunk(2, dim=-1)
    return ACTIVATIONS[weights.activation](gate).mul_(up)


def _by_columns(weights: ExpertWeights, rows: Tensor, gate_weights: Tensor) -> Tensor:
    """One expert's outputs ``[H, n]`` for ``rows`` ``[n, H]``, times ``gate_weights`` ``[n]``."""
    gate, up = torch.mm(weights.gate_up, rows.t()).chunk(2)
    return torch.mm(weights.down, ACTIVATIONS[weights.activation](gate).mul_(up).mul_(gate_weights))


def _single_row(held: Held, request: ComputeRequest, device: torch.device) -> ComputeReply:
    """Decoding one sequence: nothing to sort and nothing to gather."""
    row = request.hidden.to(device)
    sums = torch.zeros(1, row.shape[1], dtype=torch.float32, device=device)
    missing = []
    for pair, (expert, weight) in enumerate(zip(request.experts.tolist(), request.weights.tolist(), strict=True)):
        weights = held.get(expert)
        if weights is None:
            missing.append(pair)
        elif row.dtype == torch.float32:
            sums.addmm_(_activate(weights, row), weights.down.t(), alpha=weight)
        else:
            sums += linear(_activate(weights, row).mul_(weight), weights.down)
    return _reply(sums, missing, request)


def _grouped_by_expert(held: Held, request: ComputeRequest, device: torch.device) -> ComputeReply:
    """Pairs sorted by expert: each expert's weights are read once, for rows that lie side by side."""
    hidden = request.hidden.to(device)
    row_of_pair = np.repeat(np.arange(len(hidden)), np.diff(request.offsets.numpy()))
    order = np.argsort(request.experts.numpy(), kind="stable")
    experts = request.experts.numpy()[order]
    edges = [0, *(np.flatnonzero(np.diff(experts)) + 1).tolist(), len(experts)] if len(experts) else [0]
    rows = torch.from_numpy(row_of_pair[order]).to(device)
    gathered = hidden.index_select(0, rows)
    # In float32, also where rows are 16 bits: some families' gates are, and rounding them would scale whole outputs.
    gate_weights = request.weights[torch.from_numpy(order)].to(device)
    by_columns = rearranges_right(gathered)
    outputs = torch.empty_like(gathered, dtype=torch.float32 if by_columns else None)
    missing: list[int] = []
    for begin, end in pairwise(edges):
        weights = held.get(int(experts[begin]))
        if weights is None:
            outputs[begin:end] = 0
            missing.extend(order[begin:end].tolist())
        elif by_columns:
            outputs[begin:end] = _by_columns(weights, gathered[begin:end], gate_weights[begin:end]).t()
        else:
            inner = _activate(weights, gathered[begin:end]).mul_(gate_weights[begin:end].unsqueeze(1))
            torch.mm(inner, weights.down.t(), out=outputs[begin:end])
    sums = torch.zeros(hidden.shape, dtype=torch.float32, device=device)
    return _reply(sums.index_add_(0, rows, outputs.float()), missing, request)


def _pair_outputs(held: Held, request: ComputeRequest, device: torch.device) -> ComputeReply:
    hidden = request.hidden.to(device)
    offsets = request.offsets.tolist()
    outputs = torch.zeros(len(request.experts), hidden.shape[1], dtype=torch.float32, device=device)
    missing = []
    for row in range(len(hidden)):
        for pair in range(offsets[row], offsets[row + 1]):
            weights = held.get(int(request.experts[pair]))
            if weights is None:
                missing.append(pair)
            else:
                outputs[pair] = pair_output(weights, hidden[row : row + 1].clone(), float(request.weights[pair]))
    return _reply(outputs, missing, request)


def _reply(values: Tensor, missing: list[int], request: ComputeRequest) -> ComputeReply:
    return ComputeReply(values.cpu(), torch.tensor(missing, dtype=torch.int32), request.per_pair)
