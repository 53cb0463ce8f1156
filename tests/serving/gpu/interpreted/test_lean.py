"""A whole lean step by kernels for GPUs, on a CPU under the interpreter, against transformers' modules."""

import logging
from dataclasses import replace

import pytest
import torch
from engine.lean.test_lean_step import logits_of
from reference import build_checkpoint
from triton.compiler.errors import CompilationError

from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.engine import model as engine_model
from moe_serving.engine.local_experts import LocalExperts
from moe_serving.engine.model import load_attention_model
from moe_serving.gpu import attention
from moe_serving.gpu.client import ResidentExperts
from moe_serving.gpu.experts import Tuning
from moe_serving.gpu.lean import kernels_in_triton
from moe_serving.gpu.table import ExpertTable

LENGTHS, TOKENS = (1, 7), 3
FAMILIES = {"mixtral-window": {"sliding_window": 4}, "olmoe": {}, "qwen2_moe": {}, "qwen3_moe": {}}


def resident(path):
    reader = ExpertReader(path, "float32", "cpu")
    config = reader.checkpoint.config
    tables = []
    for layer in range(len(config.moe_layers)):
        read = [reader.read(layer, expert) for expert in range(config.experts)]
        tables.append(ExpertTable.of([e.gate_up for e in read], [e.down for e in read], config.activation))
    return ResidentExperts(tables, Tuning(columns=32, depth=64))


@pytest.fixture
def in_triton(monkeypatch):
    """What a device of another kind would get, on this one."""
    monkeypatch.setattr(engine_model, "kernels_for", lambda device: kernels_in_triton())
    monkeypatch.setattr(attention, "PROGRAMS", 8)  # of which an interpreter runs one after the other


def load(path, experts=None):
    return load_attention_model(path, "float32", "cpu", experts or LocalExperts(path, "float32", "cpu"))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_tokens_are_those_of_transformers_modules(tmp_path, in_triton, family, caplog):
    path = build_checkpoint(family, tmp_path, num_hidden_layers=2, **FAMILIES[family])
    with caplog.at_level(logging.INFO):
        model = load(path, resident(path))
    assert model.lean is not None, caplog.text
    wanted, tokens = logits_of(replace(load(path), lean=None), lengths=LENGTHS, count=TOKENS)
    found, own = logits_of(model, lengths=LENGTHS, count=TOKENS)
    assert own == tokens
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_a_kernel_that_fails_is_said_once_and_the_modules_compute(tmp_path, monkeypatch, caplog):
    def attend(*_):
        raise CompilationError("source", None, "no such instruction")

    kernels = kernels_in_triton()._replace(attend=attend)
    monkeypatch.setattr(engine_model, "kernels_for", lambda device: kernels)
    path = build_checkpoint("qwen3_moe", tmp_path, num_hidden_layers=2)
    with caplog.at_level(logging.INFO):
        model = load(path)
    assert model.lean is None
    assert caplog.text.count("computed by transformers' modules: a first lean step fails: CompilationError") == 1
