"""The experts of a layer against torch, expert by expert: any sizes, weights wherever they lie, FP8 with its scales."""

import pytest
import torch
from near import assert_near, drawn
from torch.nn.functional import linear

from moe_serving.checkpoint.reader import ExpertForm
from moe_serving.experts.compute import ACTIVATIONS
from moe_serving.experts.pool import ExpertPool
from moe_serving.gpu.experts import Tuning, compute_experts, sort_pairs, tuning_for
from moe_serving.gpu.table import ExpertTable
from moe_serving.gpu.tiles import SMALLEST

SMALL = Tuning(columns=32, depth=32)


def chosen(tokens, top_k, experts, seed=0):
    """ids int64 and weights float32 ``[T, K]``, no expert twice in a row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(experts, generator=generator)[:top_k] for _ in range(tokens)])
    return ids, torch.rand(tokens, top_k, generator=generator)


def written_out(rows, ids, weights, gate_ups, downs, activation):
    rows, out = rows.double(), torch.zeros(rows.shape, dtype=torch.float64)
    for (token, rank), expert in zip(torch.cartesian_prod(*map(torch.arange, ids.shape)), ids.flatten(), strict=True):
        if 0 <= expert < len(gate_ups):
            gate, up = linear(rows[token], gate_ups[expert].double()).chunk(2)
            inner = ACTIVATIONS[activation](gate) * up
            out[token] += linear(inner, downs[expert].double()) * float(weights[token, rank])
    return out


@pytest.mark.parametrize(
    ("tokens", "top_k", "experts", "hidden", "inner", "activation"),
    [
        (1, 1, 1, 16, 16, "silu"), (1, 2, 8, 64, 48, "gelu"), (1, 8, 8, 40, 24, "relu"), (7, 3, 5, 72, 56, "silu"),
        (20, 2, 2, 64, 96, "gelu"), (5, 8, 128, 32, 16, "silu"), (3, 1, 300, 8, 8, "silu"),
    ],
)  # fmt: skip
def test_any_sizes(tokens, top_k, experts, hidden, inner, activation):
    gate_ups, downs = drawn(experts, 2 * inner, hidden) / 8, drawn(experts, hidden, inner, seed=1) / 8
    rows, (ids, weights) = drawn(tokens, hidden, seed=2), chosen(tokens, top_k, experts)
    out = torch.empty(tokens, hidden)
    compute_experts(rows, ids, weights, ExpertTable.of(list(gate_ups), list(downs), activation), out, SMALL)
    assert_near(out, written_out(rows, ids, weights, gate_ups, downs, activation))


def test_tiles_that_are_whole_and_those_that_are_not_compute_the_same():
    gate_ups, downs = drawn(4, 2 * 64, 128) / 8, drawn(4, 128, 64, seed=1) / 8
    rows, (ids, weights) = drawn(9, 128, seed=2), chosen(9, 2, 4)
    wanted = written_out(rows, ids, weights, gate_ups, downs, "silu")
    table = ExpertTable.of(list(gate_ups), list(downs), "silu")
    for tuning in (Tuning(64, 128), Tuning(16, 64), Tuning(128, 256)):
        compute_experts(rows, ids, weights, table, out := torch.empty(9, 128), tuning)
        assert_near(out, wanted)


def test_what_is_no_expert_adds_nothing():
    gate_ups, downs = drawn(3, 32, 16) / 8, drawn(3, 16, 16, seed=1) / 8
    rows, weights = drawn(4, 16, seed=2), torch.rand(4, 2)
    ids = torch.tensor([[-1, 2], [0, 3], [-1, 99], [1, 0]])
    compute_experts(
        rows, ids, weights, ExpertTable.of(list(gate_ups), list(downs), "silu"), out := torch.full((4, 16), 7.0), SMALL
    )
    assert_near(out, written_out(rows, ids, weights, gate_ups, downs, "silu"))
    assert not out[2].any()


def test_no_rows_are_no_work():
    table = ExpertTable.of([torch.ones(32, 16)], [torch.ones(16, 16)], "silu")
    compute_experts(
        torch.empty(0, 16), torch.empty(0, 2, dtype=torch.int64), torch.empty(0, 2), table, torch.empty(0, 16), SMALL
    )


def test_weights_are_read_from_the_slots_of_a_pool():
    """Over more than one of its blocks, in the order in which experts came there."""
    form = ExpertForm(hidden=40, intermediate=24, dtype=torch.float32, activation="silu")
    pool = ExpertPool(2, 70, form, torch.device("cpu"))
    pool.capacity = 140
    gate_ups, downs = drawn(2, 70, 48, 40) / 8, drawn(2, 70, 40, 24, seed=1) / 8
    for expert in torch.randperm(70, generator=torch.Generator().manual_seed(4)).tolist():
        for layer in (1, 0):
            with pool.reserve(layer, expert) as room:
                room.weights.gate_up.copy_(gate_ups[layer, expert])
                room.weights.down.copy_(downs[layer, expert])
                room.publish()
    rows, (ids, weights) = drawn(12, 40, seed=2), chosen(12, 4, 70)
    with pool.pinned(1, range(70)) as slots:
        assert len({id(slot.block) for slot in slots.values()}) > 1
        held = [slots[expert].weights for expert in range(70)]
        table = ExpertTable.of([each.gate_up for each in held], [each.down for each in held], "silu")
        compute_experts(rows, ids, weights, table, out := torch.empty(12, 40), SMALL)
    assert_near(out, written_out(rows, ids, weights, gate_ups[1], downs[1], "silu"))


def test_rows_in_float32_take_weights_in_bfloat16():
    gate_ups, downs = drawn(4, 48, 40, dtype=torch.bfloat16) / 8, drawn(4, 40, 24, dtype=torch.bfloat16, seed=1) / 8
    rows, (ids, weights) = drawn(5, 40, seed=2), chosen(5, 2, 4)
    compute_experts(
        rows, ids, weights, ExpertTable.of(list(gate_ups), list(downs), "silu"), out := torch.empty(5, 40), SMALL
    )
    assert_near(out, written_out(rows, ids, weights, gate_ups.float(), downs.float(), "silu"))


@pytest.mark.parametrize(("hidden", "inner"), [(64, 32), (48, 16)])
def test_weights_in_e4m3_have_a_scale_for_each_row(hidden, inner):
    def scaled(weights):
        scales = weights.abs().amax(-1) / 448
        return (weights / scales[..., None]).to(torch.float8_e4m3fn), scales

    (gate_ups, gate_up_scales) = scaled(drawn(4, 2 * inner, hidden) / 8)
    (downs, down_scales) = scaled(drawn(4, hidden, inner, seed=1) * torch.linspace(0.1, 3, hidden)[:, None])
    rows, (ids, weights) = drawn(5, hidden, seed=2), chosen(5, 2, 4)
    table = ExpertTable.of(list(gate_ups), list(downs), "silu", (gate_up_scales, down_scales))
    compute_experts(rows, ids, weights, table, out := torch.empty(5, hidden), SMALL)
    read = [each.float() * scales[..., None] for each, scales in ((gate_ups, gate_up_scales), (downs, down_scales))]
    assert_near(out, written_out(rows, ids, weights, *read, "silu"))


@pytest.mark.parametrize(("pairs", "experts"), [(1, 1), (1, 128), (17, 3), (128, 1), (129, 128), (5000, 7)])
def test_pairs_are_sorted_by_expert(pairs, experts):
    ids = torch.randint(-1, experts + 1, (pairs, 1), generator=torch.Generator().manual_seed(pairs))
    order, of_block = sort_pairs(ids, experts)
    told = order.reshape(-1, SMALLEST)
    assert len(of_block) == len(told)
    for expert in range(experts):
        mine = told[of_block == expert].flatten().tolist()
        wanted = torch.where(ids.flatten() == expert)[0].tolist()
        assert sorted(mine) == [-1] * (len(mine) - len(wanted)) + wanted
        assert len(mine) == -(-len(wanted) // SMALLEST) * SMALLEST
    assert of_block.unique().tolist() == sorted({*of_block.tolist()} & {-1, *range(experts)})


@pytest.mark.parametrize(
    ("dtype", "shared", "depth", "stages"),
    [
        (torch.bfloat16, 227 << 10, 128, 4), (torch.float32, 227 << 10, 64, 4), (torch.bfloat16, 99 << 10, 128, 1),
        (torch.float8_e4m3fn, 227 << 10, 256, 4), (torch.bfloat16, 48 << 10, 128, 1),
    ],
)  # fmt: skip
def test_tiles_fit_into_the_memory_of_a_multiprocessor(dtype, shared, depth, stages):
    assert tuning_for(dtype, shared) == Tuning(64, depth, 4, stages)


@pytest.mark.parametrize(
    ("gate_ups", "message"),
    [
        ([torch.ones(4, 8), torch.ones(4, 6)], "gate_up of expert 1 is torch.float32 [4, 6] on cpu, and of expert 0"),
        ([torch.ones(4, 8), torch.ones(8, 4).t()], "gate_up of expert 1 is not contiguous"),
        ([torch.ones(4, 8), torch.ones(33)[1:].reshape(4, 8)], "gate_up of expert 1 begins 4 bytes behind a multiple"),
    ],
)
def test_what_kernels_cannot_read_is_refused(gate_ups, message):
    with pytest.raises(ValueError) as refused:
        ExpertTable.of(gate_ups, [torch.ones(8, 2)] * 2, "silu")
    assert message in str(refused.value)
