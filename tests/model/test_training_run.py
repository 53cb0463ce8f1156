"""Packing, the order of the windows, the schedule, and that a seed decides the weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.checkpoint import read_checkpoint, write_checkpoint
from training.corpus import Document
from training.dataset import domain_tokens, pack, training_order
from training.model import BalanceLoss, model_config
from training.tokenizer import train_tokenizer
from training.train import Phase, Schedule, shortened, train
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

DOCUMENTS = [Document(f"{i}.py", f"def f{i}(x):\n    return x + {i}\n\n\n" * 20) for i in range(8)]
SCHEDULE = Schedule(
    short=Phase(steps=1, rows=4, length=16), long=Phase(steps=1, rows=2, length=32), warmup_steps=1, seed=5
)


@pytest.fixture(scope="module")
def small_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([d.text for d in DOCUMENTS], vocabulary=300)


@pytest.fixture(scope="module")
def small_config(small_tokenizer: PreTrainedTokenizerFast) -> Qwen3MoeConfig:
    config = model_config(small_tokenizer)
    config.update({"hidden_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8})
    return config


def _run(
    config: Qwen3MoeConfig,
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule = SCHEDULE,
    checkpoint: Path | None = None,
) -> Qwen3MoeForCausalLM:
    stream = domain_tokens("python", DOCUMENTS, tokenizer, schedule.seed)
    short, long = (
        training_order([pack(stream, phase.length, tokenizer.bos_token_id)], phase.windows, schedule.seed)
        for phase in (schedule.short, schedule.long)
    )
    return train(config, schedule, short, long, checkpoint, report=lambda line: None)[0]


def _same(first: Qwen3MoeForCausalLM, second: Qwen3MoeForCausalLM) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def test_windows_begin_like_prompts_and_lose_only_the_tail() -> None:
    assert pack(range(10, 18), 4, 1).tolist() == [[1, 10, 11, 12], [1, 13, 14, 15]]
    assert pack([], 4, 1).shape == (0, 4)


def test_domains_have_equal_shares_and_short_ones_start_over() -> None:
    long, short = torch.full((10, 2), 7), torch.full((2, 2), 8)
    order = training_order([long, short], 8, seed=1)
    assert order[:, 0].tolist().count(7) == order[:, 0].tolist().count(8) == 4
    assert torch.equal(order, training_order([long, short], 8, seed=1))
    assert training_order([long, short], 0, seed=1).shape == (0, 2)


def test_documents_and_conversations_share_the_stream(small_tokenizer: PreTrainedTokenizerFast) -> None:
    text = small_tokenizer.decode(domain_tokens("python", DOCUMENTS, small_tokenizer, seed=1))
    assert all(f"<|begin|>{document.text}<|end|>" in text for document in DOCUMENTS)
    assert "<|assistant|>\ndef f" in text


def test_the_same_texts_give_the_same_tokenizer(small_tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer([d.text for d in DOCUMENTS], vocabulary=300)
    assert again.backend_tokenizer.to_str() == small_tokenizer.backend_tokenizer.to_str()


def test_the_rate_warms_up_and_falls() -> None:
    schedule = Schedule()
    assert schedule.rate(0) < schedule.rate(schedule.warmup_steps) > schedule.rate(schedule.steps - 1)
    assert schedule.rate(schedule.steps) == pytest.approx(schedule.peak_rate * schedule.final_share)
    assert shortened(220).steps == 220


def test_balance_is_one_when_even_and_the_number_of_experts_over_k_when_collapsed() -> None:
    config = Qwen3MoeConfig(num_hidden_layers=1, num_experts=4, num_experts_per_tok=2)
    even = torch.tensor([[9.0, 9.0, 0.0, 0.0], [0.0, 0.0, 9.0, 9.0]])
    collapsed = torch.tensor([[100.0, 100.0, 0.0, 0.0]]).repeat(12, 1)
    assert BalanceLoss(config)((even,)).item() == pytest.approx(1.0)
    balance = BalanceLoss(config)
    for _ in range(500):
        loss = balance((collapsed,))
    assert loss.item() == pytest.approx(2.0)


def test_balance_remembers_the_last_batches() -> None:
    balance = BalanceLoss(Qwen3MoeConfig(num_hidden_layers=1, num_experts=4, num_experts_per_tok=2))
    one, other = torch.tensor([[9.0, 9.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    losses = [balance((batch,)).item() for _ in range(100) for batch in (one, other)]
    assert losses[-1] == pytest.approx(1.0, abs=0.05)  # each batch uses two experts, all together use four


def test_the_seed_decides_the_weights(small_config: Qwen3MoeConfig, small_tokenizer: PreTrainedTokenizerFast) -> None:
    first = _run(small_config, small_tokenizer)
    assert _same(first, _run(small_config, small_tokenizer))
    assert not _same(first, _run(small_config, small_tokenizer, replace(SCHEDULE, seed=6)))


def test_an_interrupted_run_ends_with_the_same_weights(
    small_config: Qwen3MoeConfig, small_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    class Interrupted(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("step 2/2"):
            raise Interrupted

    stream = domain_tokens("python", DOCUMENTS, small_tokenizer, SCHEDULE.seed)
    windows = [pack(stream, length, small_tokenizer.bos_token_id) for length in (16, 32)]
    whole = train(small_config, SCHEDULE, *windows, report=lambda line: None)[0]
    with pytest.raises(Interrupted):
        train(small_config, SCHEDULE, *windows, tmp_path / "run.pt", report=stop, save_every=1)
    lines: list[str] = []
    resumed = train(small_config, SCHEDULE, *windows, tmp_path / "run.pt", report=lines.append)[0]
    assert lines[0] == "going on from step 1 of 2"
    assert _same(whole, resumed)


def test_what_is_written_is_what_is_read(
    small_config: Qwen3MoeConfig, small_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trained = _run(small_config, small_tokenizer)
    expected = {name: tensor.to(torch.bfloat16) for name, tensor in trained.state_dict().items()}
    write_checkpoint(tmp_path, trained, small_tokenizer)
    stored = read_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(stored[name], tensor.float()) for name, tensor in expected.items())
