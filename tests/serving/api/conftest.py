"""An api without Ray: the real application, tokenizer and watch, with tokens from a script."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import httpx2
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from moe_contract.model import ModelFacts
from moe_contract.report import AttentionReport, DirectoryReport, EpochFigures, Progress, ShardReport, Traffic
from moe_serving.api.app import build_app
from moe_serving.api.service import Service
from moe_serving.directory.apis import ApiReply, Apis, ApiSync
from moe_serving.directory.leases import LEASE_SECONDS
from moe_serving.engine.request import GenerationRequest, TokenEvent

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('a system message must come first') }}{% endif %}"
    "<|{{ m.role }}|>{% if m.reasoning_content %}(thought {{ m.reasoning_content }}){% endif %}{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    "{% if mood %}({{ mood }}){% endif %}{% if enable_thinking is false %}(no thinking){% endif %}"
    "{% if reasoning_effort %}(effort {{ reasoning_effort }}){% endif %}"
    "{% if number is defined %}{{ number + 1 }}{% endif %}"
)
CONTEXT = 64

FACTS = ModelFacts(
    digest="sha256:0123456789abcdef",
    architecture="Mixtral",
    layers=2,
    experts=4,
    top_k=2,
    bytes_per_expert=1024,
    dtype="float32",
    max_context=CONTEXT,
)
READY = DirectoryReport(
    term=1,
    revision=1,
    epoch=7,
    model=FACTS,
    shards=(
        ShardReport(index=0, phase="Ready", pairs=40),
        ShardReport(index=1, phase="Lost", pairs=60, from_peers=8, refused=1, damaged=2, busy_us=1_500_000),
    ),
    attention=(AttentionReport(replica="a", ready=True, epoch=7, running=0, waiting=2),),
    progress=Progress(copied=8, total=8, settled=True),
    placement="p1.any",
    traffic=Traffic(
        layer_rows=50,
        visits=80,
        failovers=3,
        epochs=(
            EpochFigures(
                term=1,
                revision=1,
                epoch=7,
                rows=20,
                pairs=80,
                failovers=0,
                fan_out=1.5,
                node_fan_out=0.5,
                shard_balance=0.9,
                node_balance=1.0,
            ),
        ),
    ),
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer and chat template, which is all of a checkpoint that the api reads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 20], trainer)
    path = tmp_path_factory.mktemp("checkpoint")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", chat_template=TEMPLATE)
    fast.save_pretrained(path)
    return path


class ScriptedSource:
    """Answers every request with ``script(request)``, an event at a time while ``hold`` is set.

    Remembers what was asked, how many events were told and what was cancelled.
    """

    def __init__(self) -> None:
        self.script: Callable[[GenerationRequest], Sequence[TokenEvent | Exception]] = lambda request: ()
        self.asked: list[GenerationRequest] = []
        self.cancelled: list[str] = []
        self.told = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        self.asked.append(request)
        try:
            for step in self.script(request):
                await asyncio.sleep(0)
                if isinstance(step, Exception):
                    raise step
                self.told += 1
                yield step
                await self.hold.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request.request_id)
            raise


class Api:
    """The application under test, its source and what its directory reports, whose clock is ``ahead`` of ours."""

    def __init__(self, checkpoint: Path, directory: Apis | None = None) -> None:
        """``directory``: what other processes share with this one."""
        self.report: DirectoryReport | None = READY
        self.reports_asked = 0
        self.statistics: bytes | None = None
        self.former_cluster: str | None = None
        self.directory = directory or Apis()
        self.ahead = LEASE_SECONDS
        if directory is None:
            self.directory.take(ApiSync(api="a former one", ready=False, created=int(time.time())), time.monotonic())
        self.service = Service(str(checkpoint), self._call, self._fetch_statistics, self._adopt_statistics)
        self.source = ScriptedSource()
        self.service.source = self.source
        self.service.configure({"served_name": "model"})
        self.app = build_app(self.service)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """With its tasks in the background."""
        running = asyncio.create_task(self.service.run())
        try:
            yield self
        finally:
            running.cancel()

    def client(self) -> httpx2.AsyncClient:
        """Speaks HTTP with the application without a socket between."""
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.app), base_url="http://api")

    async def _call(self, sync: ApiSync) -> ApiReply:
        self.reports_asked += 1
        if self.report is None:
            raise ConnectionError("the directory is gone")
        now = time.monotonic() + self.ahead
        self.directory.take(sync, now)
        report = self.report.model_copy(update={"refused": self.directory.refused(now)})
        return self.directory.reply(sync, report, now)

    async def _fetch_statistics(self) -> bytes | None:
        return self.statistics

    async def _adopt_statistics(self, packed: bytes, source: str) -> str | None:
        self.statistics, self.former_cluster = packed, source
        return None if packed else "these are no statistics"

    def answer_with(self, text: str, finish: str = "stop") -> None:
        """Let every request be answered with the tokens of ``text``, one a step."""
        tokenizer = self.service.bounds("model").tokenizer

        def script(request: GenerationRequest) -> list[TokenEvent]:
            ids = tokenizer.encode(text)[: request.sampling.max_tokens]
            steps = [TokenEvent(request.request_id, (token,)) for token in ids]
            if finish == "stop":
                return [*steps, TokenEvent(request.request_id, (0,), "stop")]
            return [*steps[:-1], TokenEvent(request.request_id, (ids[-1],), "length")]

        self.source.script = script


@pytest.fixture
async def api(checkpoint: Path, eventually: Callable[..., Awaitable[None]]) -> AsyncIterator[Api]:
    """Ready to answer."""
    async with Api(checkpoint).running() as api:
        await eventually(lambda: api.service.problem is None, "the api to be ready")
        yield api


@pytest.fixture
async def client(api: Api) -> AsyncIterator[httpx2.AsyncClient]:
    async with api.client() as client:
        yield client


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """Waits until ``condition()`` is true; ``what`` says what was waited for when it is not."""

    async def wait(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s for {what}"
            await asyncio.sleep(0.005)

    return wait
