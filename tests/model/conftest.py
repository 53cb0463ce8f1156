"""What the tests of models/tiny share: the stored model, loaded once."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3MoeForCausalLM

REPOSITORY = Path(__file__).parents[2]
# The training script is no part of the installed package; `python models/train_tiny.py` finds it the same way.
sys.path.insert(0, str(REPOSITORY / "models"))


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    return REPOSITORY / "models" / "tiny"


@pytest.fixture(scope="session")
def tokenizer(tiny_path: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_path)


@pytest.fixture(scope="session")
def model(tiny_path: Path) -> Qwen3MoeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).eval()
