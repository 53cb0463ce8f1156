"""The training loop: fixed steps, fixed seed, fixed order; the same corpus and thread count give the same weights.

Boundary: windows in, a trained model out; a checkpoint lets an interrupted run go on. Caller: cli.py.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from training.model import BALANCE_WEIGHT, BalanceLoss, new_model, token_losses

EMBEDDING_RATE = 5.0  # times the others' learning rate; worth another 0.1 nats after 250 steps


@dataclass(frozen=True, slots=True)
class Phase:
    """`steps` steps over batches of `rows` windows of `length` tokens each."""

    steps: int
    rows: int
    length: int

    @property
    def windows(self) -> int:
        return self.steps * self.rows

    @property
    def tokens(self) -> int:
        return self.windows * self.length


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast.

    Attention over short windows is cheap, so most steps use them; the last ones use the whole context, so that the
    model can. Batches are small because at this length of training more steps teach more than larger ones.
    """

    short: Phase = Phase(steps=3600, rows=4, length=256)
    long: Phase = Phase(steps=120, rows=2, length=1024)
    warmup_steps: int = 200
    peak_rate: float = 1.5e-3
    final_share: float = 0.03  # of the peak rate, at the end of the cosine
    weight_decay: float = 0.1
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.short.steps + self.long.steps

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, then a cosine down to `final_share` of the peak."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.peak_rate * warmup * (self.final_share + (1 - self.final_share) * cosine)


def shortened(steps: int) -> Schedule:
    """A schedule of `steps` steps with the full one's proportions, for a try."""
    full = Schedule()
    long_steps = steps * full.long.steps // full.steps
    return replace(
        full,
        short=replace(full.short, steps=steps - long_steps),
        long=replace(full.long, steps=long_steps),
        warmup_steps=max(1, steps * full.warmup_steps // full.steps),
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; CPU seconds count every thread, also those before an interruption."""

    step: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


class Run:
    """A training run's state: model, optimizer and the experts' shares, which a checkpoint keeps together."""

    def __init__(self, config: Qwen3MoeConfig, schedule: Schedule) -> None:
        self.model = new_model(config, schedule.seed)
        self.balance = BalanceLoss(config)
        self.optimizer = _optimizer(self.model, schedule)

    def step(self, batch: Tensor, rate: float) -> tuple[float, float]:
        """One update at a learning rate; returns the batch's mean loss in nats per token and its balance loss."""
        output = self.model(input_ids=batch, output_router_logits=True, use_cache=False)
        loss = token_losses(output.logits, batch).mean()
        balance = self.balance(output.router_logits)
        (loss + BALANCE_WEIGHT * balance).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative_rate"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item(), balance.item()

    def save(self, path: Path, progress: Progress) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "shares": self.balance.shares,
            "progress": asdict(progress),
        }
        torch.save(state, unfinished)
        unfinished.replace(path)

    def restore(self, path: Path) -> Progress:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.balance.shares = state["shares"]
        return Progress(**state["progress"])


def train(
    config: Qwen3MoeConfig,
    schedule: Schedule,
    short: Tensor,
    long: Tensor,
    checkpoint: Path | None = None,
    report: Callable[[str], None] = print,
    save_every: int = 100,
) -> tuple[Qwen3MoeForCausalLM, Progress]:
    """Trains on the windows of the short phase, then on those of the long one, in their given order.

    Where `checkpoint` exists the run goes on from it; it is written every `save_every` steps.
    """
    run, progress = Run(config, schedule), Progress()
    if checkpoint is not None and checkpoint.exists():
        progress = run.restore(checkpoint)
        report(f"going on from step {progress.step} of {schedule.steps}")
    run.model.train()
    cpu, wall = time.process_time() - progress.cpu_seconds, time.monotonic() - progress.wall_seconds
    for step in range(progress.step, schedule.steps):
        loss, balance = run.step(_batch(schedule, short, long, step), schedule.rate(step))
        progress = Progress(step + 1, time.process_time() - cpu, time.monotonic() - wall)
        if step % 100 == 0 or progress.step == schedule.steps:
            report(
                f"step {progress.step}/{schedule.steps}  loss {loss:.3f}  balance {balance:.3f}  "
                f"{progress.wall_seconds:.0f} s, CPU {progress.cpu_seconds / 60:.1f} min"
            )
        if checkpoint is not None and progress.step % save_every == 0:
            run.save(checkpoint, progress)
    return run.model.eval(), progress


def _batch(schedule: Schedule, short: Tensor, long: Tensor, step: int) -> Tensor:
    """The step's rows, `[rows, length]` of its phase."""
    if step < schedule.short.steps:
        return short[step * schedule.short.rows :][: schedule.short.rows]
    return long[(step - schedule.short.steps) * schedule.long.rows :][: schedule.long.rows]


def _optimizer(model: Qwen3MoeForCausalLM, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW in three groups; `relative_rate` multiplies the schedule's rate.

    A token's embedding learns only from the batches that hold the token, hence its higher rate.
    """
    embeddings = [model.model.embed_tokens.weight]
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p is not embeddings[0]]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay, "relative_rate": 1.0},
        {"params": vectors, "weight_decay": 0.0, "relative_rate": 1.0},
        {"params": embeddings, "weight_decay": 0.0, "relative_rate": EMBEDDING_RATE},
    ]
    return torch.optim.AdamW(groups, lr=schedule.peak_rate, betas=(0.9, 0.95), fused=True)
