"""One request while it is being answered: its tokens, and how many of them the cache holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from moe_serving.engine.block_allocator import NO_BLOCKS, BlockTable
from moe_serving.engine.request import FinishReason, GenerationRequest, Origin


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """Attributes:
    token_ids: prompt and answer so far.
    computed: leading tokens whose keys and values are in the cache.
    blocks: of the cache, this sequence's; none while it waits.
    arrival: its number in the queue.
    """

    request: GenerationRequest
    token_ids: list[int] = field(init=False)
    computed: int = 0
    blocks: BlockTable = NO_BLOCKS
    arrival: int = 0

    def __post_init__(self) -> None:
        self.token_ids = [*self.request.prompt_ids, *self.request.emitted_ids]

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def origin(self) -> Origin:
        """Whose it is. A request that does not say belongs to nobody else's."""
        return self.request.origin or Origin("", self.request_id)

    @property
    def size(self) -> int:
        """Tokens of prompt and answer, however long it may become: what it asks for."""
        return len(self.request.prompt_ids) + self.request.sampling.max_tokens

    @property
    def pending(self) -> int:
        """Tokens still to be computed before the next one can be chosen; at least 1."""
        return len(self.token_ids) - self.computed

    @property
    def answered(self) -> int:
        """Tokens of the answer so far, those of an earlier replica included: the position the sampler counts in."""
        return len(self.token_ids) - len(self.request.prompt_ids)

    @property
    def reservation(self) -> int:
        """Tokens of cache that always suffice. The last token of an answer is never computed, hence one less."""
        return len(self.request.prompt_ids) + self.request.sampling.max_tokens - 1

    def finish_reason(self, end_token_ids: frozenset[int]) -> FinishReason | None:
        """Whether the answer is complete; ``end_token_ids`` are the model's own end-of-sequence tokens."""
        sampling = self.request.sampling
        if self.answered:
            last = self.token_ids[-1]
            if last in sampling.stop_token_ids or (last in end_token_ids and not sampling.ignore_eos):
                return "stop"
        return "length" if self.answered >= sampling.max_tokens else None
