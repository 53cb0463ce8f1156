"""The whole run: corpus, tokenizer, training, checkpoint, measurements, card. Caller: models/train_tiny.py."""

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3MoeForCausalLM

from training.card import Facts, render_card
from training.checkpoint import read_checkpoint, write_checkpoint
from training.corpus import Split, corpus_digest, read_corpus
from training.dataset import domain_tokens, pack, training_order
from training.errors import TrainingError
from training.evaluate import measure_domain
from training.model import active_parameters, model_config
from training.samples import samples
from training.tokenizer import train_tokenizer
from training.train import Phase, Progress, Schedule, shortened, train

CHARACTERS_PER_DOMAIN = 2_500_000
# A million characters of each domain find the same merges as all of them, in a fraction of the time.
TOKENIZER_CHARACTERS = 1_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs 4% of the time
    schedule = Schedule() if options.steps is None else shortened(options.steps)
    try:
        corpus = read_corpus(CHARACTERS_PER_DOMAIN)
    except TrainingError as error:
        sys.exit(f"train_tiny: {error}")
    digest = corpus_digest(corpus)
    print(f"corpus {digest[:16]}: {sum(len(d.text) for s in corpus.values() for d in s.train):,} characters")

    tokenizer = train_tokenizer(_tokenizer_texts(corpus))
    short, long = _training_windows(corpus, tokenizer, schedule)
    unfinished = _unfinished_path(digest, schedule, options.threads)
    model, progress = train(model_config(tokenizer), schedule, short, long, unfinished)
    write_checkpoint(options.output, model, tokenizer)
    facts = _measure(options, schedule, progress, corpus, digest, tokenizer)
    (options.output / "README.md").write_text(render_card(facts), encoding="utf-8")
    unfinished.unlink(missing_ok=True)
    print(f"wrote {options.output}: CPU {progress.cpu_seconds / 60:.1f} min of training")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train models/tiny from text on this machine.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "tiny")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; another number rounds differently")
    parser.add_argument("--steps", type=int, help="fewer steps, for a try (default: the full schedule)")
    return parser


def _tokenizer_texts(corpus: dict[str, Split]) -> list[str]:
    texts = []
    for split in corpus.values():
        taken = 0
        for document in split.train:
            if taken < TOKENIZER_CHARACTERS:
                texts.append(document.text)
                taken += len(document.text)
    return texts


def _training_windows(
    corpus: dict[str, Split], tokenizer: PreTrainedTokenizerFast, schedule: Schedule
) -> tuple[Tensor, Tensor]:
    """The short and the long windows in training order, as many as the schedule sees."""
    streams = [domain_tokens(name, split.train, tokenizer, schedule.seed) for name, split in corpus.items()]
    print("tokens:", ", ".join(f"{name} {len(stream):,}" for name, stream in zip(corpus, streams, strict=True)))

    def windows(phase: Phase, seed: int) -> Tensor:
        packed = [pack(stream, phase.length, tokenizer.bos_token_id) for stream in streams]
        return training_order(packed, phase.windows, seed)

    return windows(schedule.short, schedule.seed), windows(schedule.long, schedule.seed + 1)


def _unfinished_path(digest: str, schedule: Schedule, threads: int) -> Path:
    """Where an interrupted run is kept; another corpus or schedule is another run."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    run = hashlib.sha256(f"{digest}{schedule}{threads}".encode()).hexdigest()[:16]
    return cache / "moe-operator" / f"tiny-{run}.pt"


def _measure(
    options: argparse.Namespace,
    schedule: Schedule,
    progress: Progress,
    corpus: dict[str, Split],
    digest: str,
    tokenizer: PreTrainedTokenizerFast,
) -> Facts:
    """Measures what was stored, not what was trained: bf16 rounds the weights."""
    model: Qwen3MoeForCausalLM = read_checkpoint(options.output)
    return Facts(
        config=model.config,
        parameters=sum(p.numel() for p in model.parameters()),
        active_parameters=active_parameters(model),
        stored_bytes=sum(p.stat().st_size for p in options.output.iterdir() if p.name != "README.md"),
        schedule=schedule,
        progress=progress,
        threads=options.threads,
        corpus=corpus,
        corpus_digest=digest,
        domains={name: measure_domain(model, tokenizer, split.held_out) for name, split in corpus.items()},
        samples=samples(model, tokenizer),
    )
