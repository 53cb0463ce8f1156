"""The process of transformers: one model, loaded once, for all its contestants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.contest.continuous import Continuous
from benchmarks.contest.generate import Generate
from benchmarks.contest.runs import Runner, Setting
from benchmarks.contest.whole import Whole


@contextmanager
def opened(setting: Setting, wanted: Sequence[str]) -> Iterator[dict[str, Runner]]:
    """The contestants ``wanted``, ready."""
    transformers.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        setting.model, dtype=getattr(torch, setting.dtype), local_files_only=True
    ).eval()
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    model.config.eos_token_id = None
    whole = Whole(model)
    runners: dict[str, Runner] = {"whole": whole, "generate": Generate(whole), "continuous": Continuous(whole)}
    yield {name: runners[name] for name in wanted}
