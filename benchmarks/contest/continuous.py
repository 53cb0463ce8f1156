"""transformers' continuous batching: a paged cache, sequences packed into one row.

It is made anew for each run, untimed, so that no thread of it is there while others run.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic, perf_counter
from typing import Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.contest.runs import Run, Tokens
from benchmarks.contest.whole import Beside

PAGE = 256
"""Tokens of a block of its cache; transformers' default."""
LIMIT_S = 1800.0
_LOOK_S = 1.0


class Continuous(Beside):
    def run(self, prompts: Sequence[Tokens], tokens: int) -> Run:
        model = self._whole.steadied()
        with model.continuous_batching_context_manager(
            generation_config=GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=_room(prompts, tokens),
            timeout=60,
        ) as manager:
            begin = perf_counter()
            names = manager.add_requests([list(prompt) for prompt in prompts], tokens, record_timestamps=True)
            answers = _wait(manager, len(names))
        ordered = [answers[name] for name in names]
        return Run.of(begin, [each.timestamps for each in ordered], [each.generated_tokens for each in ordered])


def _room(prompts: Sequence[Tokens], tokens: int) -> ContinuousBatchingConfig:
    """For all sequences together, and all prompts in one step. No prefix is kept: prompts are the same each time."""
    blocks = -(-(len(prompts[0]) + tokens) // PAGE) + 1
    return ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=blocks * len(prompts),
        max_batch_tokens=sum(map(len, prompts)),
        max_requests_per_batch=len(prompts),
        allow_block_sharing=False,
        auto_switch_to_flash=False,
    )


def _wait(manager: Any, count: int) -> dict[str, Any]:
    """The answers by name.

    Raises:
        RuntimeError, TimeoutError: one has failed; they did not come.
    """
    answers: dict[str, Any] = {}
    end = monotonic() + LIMIT_S
    while len(answers) < count:
        answer = manager.get_result(timeout=_LOOK_S)
        if answer is not None and answer.is_finished():
            if answer.error is not None:
                raise RuntimeError(f"continuous batching of transformers failed: {answer.error}")
            answers[answer.request_id] = answer
        elif answer is None and not manager.is_running():
            raise RuntimeError("continuous batching of transformers has ended; its log says why")
        elif monotonic() > end:
            raise TimeoutError(f"waited {LIMIT_S:g} s for continuous batching of transformers")
    return answers
