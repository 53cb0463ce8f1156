"""Print what a step of decoding costs the engine's thread, lean and by transformers' modules: CPU time, in turn.

python -m benchmarks.lean                             models/tiny, batch 1, 8 and 32, all experts in this process
python -m benchmarks.lean --experts none              without experts: what is left is what the lean step is about
python -m benchmarks.lean --model 1b --context 512

CPU time of one thread (torch gets one) hardly depends on what else runs, so that this can be asked of a busy machine;
how fast answers come there is another question (``benchmarks.speed``). Rounds alternate; figures are medians with
quartiles of the rounds, ratios of the two ways in the same round.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import quantiles
from typing import Any

from benchmarks.arguments import positive
from benchmarks.contest.models import SIZES, checkpoint
from benchmarks.contest.rounds import prompts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    needed, most = options.context + options.steps * (options.rounds + 1), SIZES[options.model].context
    if needed > most:
        parser.error(
            f"--context {options.context} and {options.steps} --steps in {options.rounds} --rounds and one to warm up "
            f"come to {needed} tokens, and model {options.model} takes {most}: ask for less"
        )
    with checkpoint(options.model) as path:
        for batch in options.batches:
            print(_line(batch, *measure(path, batch, options)), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SIZES), default="tiny", help="default tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default float32")
    parser.add_argument("--experts", choices=["local", "none"], default="local", help="default local")
    parser.add_argument("--batches", type=positive, nargs="+", default=[1, 8, 32], metavar="N", help="default 1 8 32")
    parser.add_argument("--context", type=positive, default=128, metavar="N", help="tokens of prompts (default 128)")
    parser.add_argument("--steps", type=positive, default=16, metavar="N", help="of a round (default 16)")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="default 7")
    return parser


def measure(path: Any, batch: int, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Microseconds of a step by transformers' modules and lean, for each round."""
    import torch  # noqa: PLC0415 - whoever asks for help need not wait for it

    from moe_serving.engine.local_experts import LocalExperts  # noqa: PLC0415
    from moe_serving.engine.model import load_attention_model  # noqa: PLC0415

    torch.set_num_threads(1)
    experts = LocalExperts(path, options.dtype, "cpu") if options.experts == "local" else _no_experts()
    model = load_attention_model(path, options.dtype, "cpu", experts)
    if model.lean is None:
        raise RuntimeError(f"model {options.model} has no lean step in {options.dtype}")
    ways = [_Decoding(each, batch, options) for each in (replace(model, lean=None), model)]
    rounds = [[way.round(options.steps) for way in ways] for _ in range(options.rounds + 1)][1:]
    return [general for general, _ in rounds], [lean for _, lean in rounds]


def _no_experts() -> Any:
    """An ``ExpertsClient`` that adds nothing."""
    from moe_serving.engine.experts import Computed, ExpertsClient  # noqa: PLC0415 - as in measure

    class NoExperts(ExpertsClient):
        def submit(self, layer: int, hidden: Any, expert_ids: Any, weights: Any) -> Computed:
            return Computed(hidden.new_zeros(hidden.shape))

    return NoExperts()


class _Decoding:
    """A batch of sequences, one step after the other."""

    def __init__(self, model: Any, batch: int, options: argparse.Namespace) -> None:
        from moe_contract.applications import AttentionConfig  # noqa: PLC0415 - as in measure
        from moe_serving.engine.request import GenerationRequest, Sampling  # noqa: PLC0415
        from moe_serving.engine.runner import ModelRunner  # noqa: PLC0415
        from moe_serving.engine.scheduler import Scheduler  # noqa: PLC0415
        from moe_serving.engine.sequence import Sequence as Answer  # noqa: PLC0415

        length = SIZES[options.model].context
        tokens = batch * length
        limits = AttentionConfig(max_batch_tokens=batch * options.context, max_running=batch, kv_cache_tokens=tokens)
        self._scheduler = Scheduler(limits)
        self._runner = ModelRunner(model, self._scheduler.blocks.end)
        sampling = Sampling(max_tokens=length - options.context, ignore_eos=True)
        for number, prompt in enumerate(prompts(batch, options.context, SIZES[options.model].vocabulary)):
            self._scheduler.add(Answer(GenerationRequest(str(number), tuple(prompt), sampling)))
        self.round(1)  # the prompts

    def round(self, steps: int) -> float:
        """Microseconds of this thread for each of so many steps."""
        from moe_serving.engine.scheduler import take_tokens  # noqa: PLC0415 - as in measure

        begin = time.thread_time()
        for _ in range(steps):
            chunks = self._scheduler.next_step()
            take_tokens(chunks, self._runner.run(chunks))
        return (time.thread_time() - begin) / steps * 1e6


def _line(batch: int, general: Sequence[float], lean: Sequence[float]) -> str:
    ratios = [one / other for one, other in zip(general, lean, strict=True)]
    return (
        f"batch {batch}: modules {_spread(general, ',.0f')} us a step, lean {_spread(lean, ',.0f')} us, "
        f"{_spread(ratios, '.2f')} times as fast"
    )


def _spread(values: Sequence[float], form: str) -> str:
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return f"{middle:{form}} ({low:{form}}–{high:{form}})"


if __name__ == "__main__":
    sys.exit(main())
