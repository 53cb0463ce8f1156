"""A single expert from disk: the right bytes, those bytes only, and none kept."""

import os
import subprocess
import sys

import pytest
import torch
from reference import CONFIGS, build_checkpoint, reference_model
from safetensors.torch import load_file, save_file

from moe_serving.checkpoint import reader as reader_module
from moe_serving.checkpoint.reader import ExpertReader, digest_of


@pytest.mark.parametrize("variant", CONFIGS)
def test_experts_are_transformers_own(checkpoint_of, variant):
    path = checkpoint_of(variant)
    reader = ExpertReader(path, "auto", "cpu")
    for layer, decoder_layer in enumerate(reader.checkpoint.config.moe_layers):
        whole = reference_model(path).model.layers[decoder_layer].mlp.experts
        for expert in range(reader.checkpoint.config.experts):
            own = reader.read(layer, expert)
            assert torch.equal(own.gate_up, whole.gate_up_proj[expert])
            assert torch.equal(own.down, whole.down_proj[expert])
            assert own.activation == "silu"


def test_in_several_files_and_another_dtype(tmp_path):
    path = build_checkpoint("mixtral", tmp_path, max_shard_size="200KB")
    exact, served = ExpertReader(path, "auto", "cpu"), ExpertReader(path, "bfloat16", "cpu")
    for layer, expert in [(0, 0), (3, 7)]:
        assert torch.equal(served.read(layer, expert).down, exact.read(layer, expert).down.bfloat16())


@pytest.mark.parametrize("fused", [False, True], ids=["one by one", "fused"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_several_threads_read_is_what_safetensors_has(tmp_path, monkeypatch, fused, dtype):
    """Of matrices of several parts, none of which ends where the gate does."""
    monkeypatch.setattr(reader_module, "reading_threads", lambda: 3)
    sizes = {"hidden_size": 320, "intermediate_size": 1100, "num_hidden_layers": 1, "num_local_experts": 2}
    path = build_checkpoint("mixtral", tmp_path, fused=fused, **sizes)
    whole, reader = load_file(path / "model.safetensors"), ExpertReader(path, dtype, "cpu")
    for expert in range(2):
        stored = reader.checkpoint.expert_tensors(0, expert)
        parts = [whole[each.name] if each.expert is None else whole[each.name][expert] for each in stored.gate_up]
        down = whole[stored.down.name] if stored.down.expert is None else whole[stored.down.name][expert]
        own = reader.read(0, expert)
        assert torch.equal(own.gate_up, torch.cat(parts).to(own.gate_up.dtype))
        assert torch.equal(own.down, down.to(own.down.dtype))
        assert reader.read_into(own, 0, expert) == digest_of(own)


_READ = """
import sys, psutil
from moe_serving.checkpoint.reader import ExpertReader
reader = ExpertReader(sys.argv[1], "auto", "cpu")
process = psutil.Process()
reader.read(0, 0)
memory, read = process.memory_full_info().uss, process.io_counters().read_chars
held = [reader.read(0, expert) for expert in range(4, 8)]
print(process.io_counters().read_chars - read, process.memory_full_info().uss - memory)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="counts the bytes read by Linux's own book")
@pytest.mark.parametrize("fused", [False, True], ids=["one by one", "fused"])
def test_it_reads_and_holds_those_experts_only(tmp_path, fused):
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 1}
    path = build_checkpoint("mixtral", tmp_path, fused=fused, **sizes)
    command = [sys.executable, "-c", _READ, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    read, held = map(int, done.stdout.split())
    size = 4 * 3 * 512 * 1024 * 4
    assert size <= read < 1.02 * size
    # The C allocator may keep a buffer of one expert.
    assert held < 1.3 * size


def test_a_file_replaced_since_it_was_checked_is_not_read_by_the_old_places(tmp_path):
    path = build_checkpoint("mixtral", tmp_path)
    reader = ExpertReader(path, "auto", "cpu")
    tensors = load_file(path / "model.safetensors")
    save_file(tensors | {"a": torch.zeros(7)}, path / "model.safetensors")
    with pytest.raises(OSError, match=r"model.safetensors has changed since it was checked: tensor"):
        reader.read(0, 0)


def test_a_file_cut_short_while_it_is_open(tmp_path):
    path = build_checkpoint("mixtral", tmp_path)
    reader = ExpertReader(path, "auto", "cpu")
    reader.read(0, 0)
    os.truncate(path / "model.safetensors", 50_000)
    with pytest.raises(OSError, match="has become shorter since it was checked"):
        reader.read(3, 7)
