"""Which tokens of which sequences the next step computes. Pure: no tensors, no clock, no thread.

Policy: every sequence that only waits for its next token gets it in every step; what is left of the step's tokens
goes to prompts in chunks: half of it to the shortest, so that none waits for a long one, the rest first come first
served, so that none waits for ever. A sequence is in the batch only while its whole length fits into the cache, so none
is thrown out for want of room. Who comes into the batch, and who must leave it for others, is the queue's to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from moe_contract.applications import AttentionConfig
from moe_serving.engine.block_allocator import NO_BLOCKS, BlockAllocator
from moe_serving.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """``count`` tokens of a sequence from ``computed`` on; when they are its last, the next token is chosen."""

    sequence: Sequence
    count: int

    @property
    def samples(self) -> bool:
        return self.count == self.sequence.pending


def take_tokens(chunks: Collection[Chunk], tokens: Iterable[int | None]) -> tuple[list[Sequence], list[Sequence]]:
    """After a step: count its chunks as computed and append the tokens chosen.

    Returns:
        The sequences that got a token, and those for which there is none (None in ``tokens``).
    """
    sampled = [chunk.sequence for chunk in chunks if chunk.samples]
    for chunk in chunks:
        chunk.sequence.computed += chunk.count
    grown: list[Sequence] = []
    stuck: list[Sequence] = []
    for sequence, token in zip(sampled, tokens, strict=True):
        if token is None:
            stuck.append(sequence)
        else:
            sequence.token_ids.append(token)
            grown.append(sequence)
    return grown, stuck


class Scheduler:
    """The sequences in the batch, within the limits of one replica."""

    def __init__(self, limits: AttentionConfig) -> None:
        self._limits = limits
        self.blocks = BlockAllocator(limits.kv_cache_tokens, spare=limits.places)
        self.running: list[Sequence] = []

    @property
    def busy(self) -> bool:
        return bool(self.running)

    def fits(self, sequence: Sequence, without: Collection[Sequence] = ()) -> bool:
        """Whether ``add`` can take it, or could if those of ``without`` had been discarded."""
        if len(self.running) - len(without) >= self._limits.places:
            return False
        return self.blocks.fits(sequence.reservation, [other.blocks for other in without])

    def add(self, sequence: Sequence) -> None:
        """Take a sequence that ``fits`` into the batch.

        Raises:
            ValueError: it does not fit.
        """
        blocks = self.blocks.reserve(sequence.reservation) if self.fits(sequence) else None
        if blocks is None:
            raise ValueError(f"{sequence.request_id} of {sequence.reservation} tokens does not fit into the batch")
        sequence.blocks = blocks
        self.running.append(sequence)

    def discard(self, sequence: Sequence) -> None:
        """Finished, failed, cancelled or preempted: its place and its blocks are free from now on. Twice is once."""
        if sequence in self.running:
            self.running.remove(sequence)
            self.blocks.release(sequence.blocks)
            sequence.blocks = NO_BLOCKS

    def reconfigure(self, limits: AttentionConfig) -> None:
        """Take new limits; what is in the batch stays there."""
        self._limits = limits
        self.blocks.resize(limits.kv_cache_tokens, limits.places)

    def next_step(self) -> list[Chunk]:
        """The chunks of the next step, decoding sequences first; empty when there is nothing to do."""
        decoding = [Chunk(sequence, 1) for sequence in self.running if sequence.pending == 1]
        budget = self._limits.max_batch_tokens
        step = decoding[:budget]
        step += self._prompts(budget - len(step))
        self._rotate(len(decoding))
        return step

    def _prompts(self, budget: int) -> list[Chunk]:
        """``budget`` tokens of prompts, in order of arrival."""
        prompts = [sequence for sequence in self.running if sequence.pending > 1]
        counts: Counter[Sequence] = Counter()

        def give(order: Iterable[Sequence], tokens: int) -> None:
            for sequence in order:
                count = min(sequence.pending - counts[sequence], tokens)
                counts[sequence] += count
                tokens -= count

        give(sorted(prompts, key=lambda sequence: sequence.pending), budget // 2)
        give(prompts, budget - counts.total())
        return [Chunk(sequence, counts[sequence]) for sequence in prompts if counts[sequence]]

    def _rotate(self, decoding: int) -> None:
        """After the limits were lowered more sequences may run than a step has tokens: then they take turns."""
        if decoding > self._limits.max_batch_tokens:
            shift = self._limits.max_batch_tokens
            self.running = self.running[shift:] + self.running[:shift]
