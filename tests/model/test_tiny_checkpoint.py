"""models/tiny as other tools see it: files, tensor names, shape, tokenizer, generation."""

import json
import re
from pathlib import Path

import pytest
import torch
from jinja2 import TemplateError
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedTokenizerFast, Qwen3MoeForCausalLM


@pytest.fixture(scope="module")
def stored(tiny_path: Path) -> dict[str, torch.Tensor]:
    with safe_open(tiny_path / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)


def test_the_directory_fits_in_the_repository(tiny_path: Path) -> None:
    assert sum(path.stat().st_size for path in tiny_path.iterdir()) <= 25_000_000


def test_the_shape_is_worth_placing(tiny_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_path)
    assert config.architectures == ["Qwen3MoeForCausalLM"]
    assert config.mlp_only_layers == [] and config.decoder_sparse_step == 1  # every layer is an MoE layer
    assert config.num_hidden_layers >= 6
    assert 16 <= config.num_experts <= 32
    assert config.num_experts_per_tok == 2
    assert config.max_position_embeddings == 1024


def test_at_most_12m_parameters_in_bf16(stored: dict[str, torch.Tensor]) -> None:
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in stored.values()) <= 12_000_000


def test_each_expert_has_its_own_tensors(stored: dict[str, torch.Tensor], tiny_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_path)
    pattern = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")
    found = {(int(m[1]), int(m[2]), m[3]) for name in stored if (m := pattern.fullmatch(name))}
    assert found == {
        (layer, expert, projection)
        for layer in range(config.num_hidden_layers)
        for expert in range(config.num_experts)
        for projection in ("gate_proj", "up_proj", "down_proj")
    }
    assert {f"model.layers.{layer}.mlp.gate.weight" for layer in range(config.num_hidden_layers)} <= stored.keys()
    assert all(torch.isfinite(tensor).all() for tensor in stored.values())


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n\treturn x  # four   spaces",
        "Größe «naïve» œuvre – “quoted” … ẞ",
        "日本語 и русский 🙂\u200b\u00a0",
        "a\r\nb\x00c",
        "<|end|",
    ],
)
def test_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_special_tokens_agree_everywhere(tiny_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = AutoConfig.from_pretrained(tiny_path)
    generation = json.loads((tiny_path / "generation_config.json").read_text())
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.bos_token_id == config.bos_token_id == generation["bos_token_id"]
    assert tokenizer.eos_token_id == config.eos_token_id == generation["eos_token_id"]


def test_the_chat_template_marks_turns_and_asks_for_the_next(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is ls?"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|begin|><|system|>\nBe brief.<|end|>\n<|user|>\nWhat is ls?<|end|>\n<|assistant|>\n"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1


def test_the_chat_template_refuses_unknown_roles(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TemplateError, match="unknown role robot"):
        tokenizer.apply_chat_template([{"role": "robot", "content": "beep"}], tokenize=False)


def test_a_greeting_gets_an_answer_that_ends(model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    generated = model.generate(**prompt, max_new_tokens=120)[0, prompt["input_ids"].shape[1] :]
    assert generated[-1] == tokenizer.eos_token_id
    assert len(tokenizer.decode(generated, skip_special_tokens=True).split()) >= 3
