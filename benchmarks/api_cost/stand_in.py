"""What stands around an api under test: replica and directory, without a model behind them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from moe_contract.model import ModelFacts
from moe_contract.report import AttentionReport, DirectoryReport, Progress, ShardReport
from moe_serving.directory.apis import ApiReply, Apis, ApiSync
from moe_serving.engine.request import FinishReason, GenerationRequest
from moe_serving.streams.messages import StreamEvent
from moe_serving.streams.sender import SenderPool, StreamSender
from moe_serving.wire.endpoint import Address

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny"
"""Its tokenizer is all that is read of it."""
CONTEXT = 4096
SERVED_NAME = "model"
VOCABULARY = 4096
NETWORK: Final = "unix"

_READY = DirectoryReport(
    term=1,
    revision=1,
    epoch=1,
    model=ModelFacts(
        digest="sha256:stand-in",
        architecture="Mixtral",
        layers=1,
        experts=1,
        top_k=1,
        bytes_per_expert=1,
        dtype="float32",
        max_context=CONTEXT,
    ),
    shards=(ShardReport(index=0, phase="Ready"),),
    attention=(AttentionReport(replica="stand-in", ready=True, epoch=1, running=0, waiting=0),),
    progress=Progress(copied=1, total=1, settled=True),
    placement="stand-in",
)


def text_ids() -> list[int]:
    """Tokens of English text: what is answered, from its beginning, again and again."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - whoever only asks needs none

    text = (ROOT / "docs" / "architecture.md").read_text()
    return list(Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text[:20_000]).ids)


def prompt(steps_per_second: int, length: int) -> tuple[int, ...]:
    """One that is answered in so many steps a second: its first token says so."""
    return (steps_per_second, *range(10, 9 + length))


class Directory:
    """Says that all is ready."""

    def __init__(self) -> None:
        self._apis = Apis()

    async def exchange(self, sync: ApiSync) -> ApiReply:
        now = time.monotonic()
        self._apis.take(sync, now)
        return self._apis.reply(sync, _READY, now)


class Engine:
    """The replica's end of the stream protocol: a step every so often, with a token for each answer under way."""

    def __init__(self, node: str, ids: Sequence[int]) -> None:
        self._senders = SenderPool("stand-in", node, NETWORK)
        self._ids = ids
        self._under_way: dict[int, list[_Answer]] = {}
        self._steps: dict[int, asyncio.Task[None]] = {}

    async def generate(self, request: GenerationRequest, stream: int, address: Address) -> None:
        """As an attention replica's; see ``prompt``."""
        sender = await self._senders.get(address)
        sender.push(StreamEvent(stream))
        sender.push(StreamEvent(stream))
        answer = _Answer(sender, stream, self._ids, request.sampling.max_tokens)
        pace = request.prompt_ids[0]
        if not (answers := self._under_way.setdefault(pace, [])):
            self._steps[pace] = asyncio.create_task(self._run(pace))
        answers.append(answer)
        await answer.ended.wait()

    async def _run(self, steps_per_second: int) -> None:
        loop = asyncio.get_running_loop()
        due, answers = loop.time(), self._under_way[steps_per_second]
        while answers:
            due = max(due + 1 / steps_per_second, loop.time())
            await asyncio.sleep(due - loop.time())
            for answer in answers:
                answer.step()
            answers[:] = [answer for answer in answers if not answer.ended.is_set()]


class _Answer:
    def __init__(self, sender: StreamSender, stream: int, ids: Sequence[int], tokens: int) -> None:
        self.ended = asyncio.Event()
        self._sender = sender
        self._stream = stream
        self._rest = itertools.islice(itertools.cycle(ids), tokens)
        self._left = tokens

    def step(self) -> None:
        self._left -= 1
        finish: FinishReason | None = None if self._left else "length"
        self._sender.push(StreamEvent(self._stream, (next(self._rest),), finish))
        if finish:
            self.ended.set()
