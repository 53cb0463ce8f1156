"""The model card, from measurements only; pure: numbers in, Markdown out. Caller: cli.py."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import Qwen3MoeConfig

from training.corpus import DOMAINS, Document, Split
from training.evaluate import DomainMeasurement, load_distance
from training.model import BALANCE_WEIGHT
from training.samples import Sample
from training.train import Progress, Schedule

HOT_EXPERTS = 3  # named per layer and domain


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the card states."""

    config: Qwen3MoeConfig
    parameters: int
    active_parameters: int
    stored_bytes: int
    schedule: Schedule
    progress: Progress
    threads: int
    corpus: Mapping[str, Split]
    corpus_digest: str
    domains: Mapping[str, DomainMeasurement]
    samples: Sequence[Sample]


def render_card(facts: Facts) -> str:
    """The README.md of the checkpoint."""
    sections = (_head, _shape, _data, _training, _losses, _experts, _distances, _samples, _limits)
    return "\n\n".join(section(facts) for section in sections) + "\n"


def hot_experts(load: NDArray[np.float64], count: int) -> list[list[tuple[int, float]]]:
    """Per layer the `count` busiest experts with their share, of a load `[layers, experts]`; ties to the lower id."""
    order = np.argsort(-load, axis=1, kind="stable")[:, :count]
    return [[(int(e), float(load[layer, e])) for e in row] for layer, row in enumerate(order)]


def _head(facts: Facts) -> str:
    about = f"""A Mixture-of-Experts language model of {facts.parameters / 1e6:.1f}M parameters, trained in minutes on
two CPU cores for demonstrations and tests of expert placement: small enough to sit in a repository, real enough
that text of different kinds uses different experts. It imitates the style of its training text and knows nothing."""
    return f"""---
license: apache-2.0
language: [en, de, fr]
library_name: transformers
pipeline_tag: text-generation
---

<!-- Written by models/training/card.py from measurements: change that, not this. -->

# tiny

{_paragraph(about)}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("models/tiny")
tokenizer = AutoTokenizer.from_pretrained("models/tiny")
```"""


def _shape(facts: Facts) -> str:
    config = facts.config
    rows = (
        ("Architecture", "Qwen3MoeForCausalLM of transformers, unchanged"),
        ("Layers, all MoE", config.num_hidden_layers),
        ("Experts per layer, per token", f"{config.num_experts}, {config.num_experts_per_tok}"),
        ("Hidden size, expert size", f"{config.hidden_size}, {config.moe_intermediate_size}"),
        ("Attention heads, key-value heads", f"{config.num_attention_heads}, {config.num_key_value_heads}"),
        ("Vocabulary", f"{config.vocab_size} (byte-level BPE)"),
        ("Context", f"{config.max_position_embeddings} tokens"),
        ("Parameters, used per token", f"{facts.parameters:,}, {facts.active_parameters:,}"),
        ("Stored", f"bf16 safetensors, {facts.stored_bytes / 1e6:.1f} MB in all files"),
    )
    return "## Shape\n\n" + _table(("", ""), rows)


def _data(facts: Facts) -> str:
    rows = []
    for domain in DOMAINS:
        split = facts.corpus[domain.name]
        sizes = [f"{len(part)} / {_megacharacters(part)}" for part in (split.train, split.held_out)]
        rows.append((domain.name, domain.source, domain.licence, f"`{domain.package}`", *sizes))
    header = ("domain", "text", "licence", "Debian package", "training files / characters", "held-out")
    return f"""## Data

Text that Debian machines with Python have on disk; nothing is downloaded. The same text as conversations (what a manual
page or a module says it is about; a passage and its continuation) and a few greetings written for it teach the chat
template. Held-out files are chosen by the hash of their name; no file and no text is on both sides.

{_table(header, rows)}

The texts differ a little with the installed versions, so another machine trains a slightly different model.
SHA-256 of the corpus this one has seen: `{facts.corpus_digest}`.

The weights carry this repository's licence; passages the model may have memorised stay under theirs."""


def _training(facts: Facts) -> str:
    schedule, progress = facts.schedule, facts.progress
    short, long = schedule.short, schedule.long
    text = f"""`make model`, or `python models/train_tiny.py --threads {facts.threads}`: {short.steps} steps over
{short.rows} windows of {short.length} tokens, then {long.steps} over {long.rows} of {long.length}, together
{(short.tokens + long.tokens) / 1e6:.1f}M tokens; AdamW in fp32, peak rate {schedule.peak_rate:g}, cosine; balance loss
{BALANCE_WEIGHT:g}; seed {schedule.seed}. It took {progress.cpu_seconds / 60:.0f} CPU minutes on {facts.threads} threads
({progress.wall_seconds / 60:.0f} minutes of a machine that also did other work). The same corpus, packages, kind of
processor and number of threads give the same weights."""
    return f"## Training\n\n{_paragraph(text)}"


def _losses(facts: Facts) -> str:
    wholes = {name: domain.whole for name, domain in facts.domains.items()}
    rows = [
        (name, f"{m.tokens:,}", f"{m.loss:.3f}", f"{np.exp(m.loss):.1f}", f"{m.bits_per_byte:.3f}")
        for name, m in wholes.items()
    ]
    header = ("domain", "held-out tokens", "loss (nats per token)", "perplexity", "bits per byte")
    return "## Loss on held-out files\n\n" + _table(header, rows)


def _experts(facts: Facts) -> str:
    rows = []
    for name, domain in facts.domains.items():
        layers = hot_experts(domain.whole.load, HOT_EXPERTS)
        rows.append((name, *(", ".join(f"{e} ({share:.0%})" for e, share in layer) for layer in layers)))
    header = ("domain", *(f"layer {layer}" for layer in range(facts.config.num_hidden_layers)))
    everything = np.mean([d.whole.load for d in facts.domains.values()], axis=0)
    return f"""## Hot experts

The {HOT_EXPERTS} busiest experts of each layer and their share of its token-expert pairs on held-out files (an even
share is {1 / facts.config.num_experts:.1%}):

{_table(header, rows)}

Over all domains together the busiest expert of any layer takes {everything.max():.1%}, the idlest
{everything.min():.2%}."""


def _distances(facts: Facts) -> str:
    names = list(facts.domains)
    rows = []
    for name in names:
        load = facts.domains[name].whole.load
        cells = [
            f"*{facts.domains[name].split_half_distance:.2f}*"
            if other == name
            else f"{load_distance(load, facts.domains[other].whole.load):.2f}"
            for other in names
        ]
        rows.append((name, *cells))
    return f"""## How far apart the domains are

Total variation distance between the expert loads of two domains, the mean over layers (0: the same experts, 1: none in
common). On the diagonal, two halves of the same domain's files:

{_table(("", *names), rows)}"""


def _samples(facts: Facts) -> str:
    parts = []
    for sample in facts.samples:
        end = "<end>" if sample.ended else "…"
        parts.append(f"{sample.kind}\n\n```text\n{sample.prompt}⟫{sample.answer}{end}\n```")
    return "## Greedy samples\n\nThe model's part begins at ⟫.\n\n" + "\n\n".join(parts)


def _limits(facts: Facts) -> str:
    return f"""## Limits

No facts, no instructions followed beyond the habit of continuing; system prompts have no effect to speak of. Most
training windows held {facts.schedule.short.length} tokens: text far beyond that is poorer."""


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), width=120, break_on_hyphens=False, break_long_words=False)


def _megacharacters(documents: Sequence[Document]) -> str:
    return f"{sum(len(d.text) for d in documents) / 1e6:.2f}M"


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
