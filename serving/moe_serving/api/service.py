"""What the routes need: the model, its bounds, the keys and the source of tokens. One per api process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from moe_contract.applications import ApiConfig
from moe_contract.base import in_words
from moe_contract.load import Load, load_of
from moe_serving.api.defaults import NO_DEFAULTS, GenerationDefaults, read_defaults
from moe_serving.api.errors import NotFoundError, NotReadyError
from moe_serving.api.metrics import ServingMetrics
from moe_serving.api.preparation import Bounds, bounds_of, context_of
from moe_serving.api.source import TokenSource
from moe_serving.api.tokenizer import ModelTokenizer
from moe_serving.api.watch import DirectoryWatch, Said, nobody_answers
from moe_serving.checkpoint.errors import ModelError
from moe_serving.directory.apis import ApiReply, ApiSync
from moe_serving.fetching.fetch import local_text
from moe_serving.unknown import tell_unknown

_LOAD_AGAIN_S = 2.0
"""Pause before a tokenizer that could not be read is tried again: it may still be on its way to this node."""

_START_S = 30.0
"""How long a process that cannot answer, and hears of no other that does, keeps back from requests."""
_CATCH_UP_S = 30.0
"""How long a request waits for a tokenizer: seconds on a busy machine, where each process that starts loads it."""
_LOOK_S = 0.05
LOAD_SECONDS = 60.0
"""For which what is told of the load stays as it is."""

logger = logging.getLogger(__name__)


class Service:
    """State of one api process.

    Attributes:
        config: the one accepted last; None before the first: nobody is let in while it is unknown who may.
        refused: why the last ``user_config`` was not taken, if so.
        source: of tokens; set by who builds this service, since a source may count its failovers in ``metrics``.
        fetch_statistics: asks the directory for all that was gathered of the traffic, packed.
        adopt_statistics: hands the directory those of a former cluster, and its name; why they are not taken, if so.
    """

    source: TokenSource

    def __init__(
        self,
        model_path: str,
        call: Callable[[ApiSync], Awaitable[ApiReply]],
        fetch_statistics: Callable[[], Awaitable[bytes | None]],
        adopt_statistics: Callable[[bytes, str], Awaitable[str | None]],
    ) -> None:
        """``call`` sends to the directory."""
        self.fetch_statistics = fetch_statistics
        self.adopt_statistics = adopt_statistics
        self.config: ApiConfig | None = None
        self.refused: str | None = None
        self.watch = DirectoryWatch(call, self._say)
        self.metrics = ServingMetrics()
        self._model_path = model_path
        self._tokenizer: ModelTokenizer | None = None
        self._tokenizer_tried = asyncio.Event()
        self._tokenizer_problem: str | None = None
        self._defaults = NO_DEFAULTS
        self._load: tuple[float, Load] | None = None

    def configure(self, config: object) -> None:
        """Take new names, bounds and keys (``ApiConfig`` as JSON data). Never raises: what cannot be read is told, and
        the old ones stay in force.
        """
        try:
            self.config, self.refused = ApiConfig.model_validate(config), None
            tell_unknown("the api", ApiConfig, config)
        except ValidationError as error:
            self.refused = f"user_config of the api is refused: {in_words(error)}"
            logger.error(self.refused)

    @property
    def settings(self) -> ApiConfig:
        """The configuration in force.

        Raises:
            NotReadyError: none was accepted yet.
        """
        if self.config is None:
            raise NotReadyError(self.refused or "the api has no configuration yet")
        return self.config

    async def run(self) -> None:
        """Load the tokenizer and watch the directory, until cancelled. Never raises because of a bad model."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._load_tokenizer())
            both.create_task(self.watch.run())

    @property
    def problem(self) -> str | None:
        """Why requests are turned away; None when they are not."""
        if self.config is None:
            return self.refused or "the api has no configuration yet"
        if self.watch.problem is not None:
            return self.watch.problem
        if self._tokenizer is None:
            return self._tokenizer_problem or "the tokenizer is being loaded"
        return None

    async def may_be_asked(self) -> None:
        """Return once this process is to get requests: when it can answer them, or nobody could, and clients and the
        operator are to be told why.

        While others answer it waits as long as it takes; else not longer than ``_START_S``, for a directory or a
        tokenizer that does not come, say.
        """
        end = time.monotonic() + _START_S
        while self.problem is not None:
            report = self.watch.report
            nobody = report is None or nobody_answers(report)
            if self.watch.others_ready == 0 and ((report and nobody) or time.monotonic() > end):
                logger.info("up, and not ready: %s", self.problem)
                return
            await asyncio.sleep(_LOOK_S)

    async def catch_up(self) -> None:
        """Let what another process knows already turn nobody away here: called before a request is told of a
        ``problem``. Takes one question to the directory, and the tokenizer's loading if nothing else is missing.
        """
        if self.problem is None or self.config is None:
            return
        try:
            async with asyncio.timeout(_CATCH_UP_S):
                await self.watch.ask()
                if self.watch.problem is None:
                    await self._tokenizer_tried.wait()
        except Exception as error:  # noqa: BLE001 - a directory that is away is told by ``problem``
            logger.debug("the directory could not be asked: %s: %s", type(error).__name__, error)

    def bounds(self, model: str) -> Bounds:
        """Bounds of a model that a client asks for by name.

        Raises:
            NotFoundError: another name than ours.
            NotReadyError: it cannot be asked yet; says why.
        """
        self.check_name(model)
        facts, problem = self.watch.facts, self.problem
        if problem is not None or facts is None or self._tokenizer is None:
            raise NotReadyError(f"model {model!r} is not ready: {problem}")
        return bounds_of(facts, self.settings, self._tokenizer, self.defaults.sampling)

    @property
    def defaults(self) -> GenerationDefaults:
        """What the model's makers say of sampling, unless the deployment does not want it."""
        return self._defaults if self.settings.generation_defaults == "Model" else NO_DEFAULTS

    @property
    def context(self) -> int | None:
        """Tokens of prompt and answer together; None while the model is not known."""
        return context_of(self.watch.facts, self.settings) if self.watch.facts else None

    def check_name(self, model: str) -> None:
        """Raises NotFoundError for another name than ours."""
        ours = self.settings.served_name
        if model != ours:
            raise NotFoundError(f"model: {model!r} is not served here; ask for {ours!r}", "model", "model_not_found")

    @property
    def fingerprint(self) -> str:
        """OpenAI's ``system_fingerprint``: changes with the checkpoint, and names adaptive routing and FP8 where they
        are asked for, or a replica goes on with them."""
        digest = self.watch.facts.digest if self.watch.facts else ""
        saved = self._pairs_saved
        adaptive = f"-adaptive-{saved:g}" if saved else ""
        weights = "-fp8-weights" if self.watch.facts and self.watch.facts.weights == "FP8" else ""
        wire = "-fp8-wire" if self._packs_rows else ""
        return f"fp_{digest.removeprefix('sha256:')[:12]}{adaptive}{weights}{wire}"

    @property
    def _pairs_saved(self) -> float:
        """Percent; 0 only where no replica leaves any out: one may have heard before us, or not yet have stopped."""
        report, config = self.watch.report, self.config
        running = [each.adaptive.pairs_saved for each in report.attention if each.adaptive] if report else []
        return max([config.pairs_saved if config else 0.0, *running])

    @property
    def _packs_rows(self) -> bool:
        """Whether a replica may do so, likewise."""
        report, config = self.watch.report, self.config
        replicas = report.attention if report else ()
        return (config is not None and config.wire == "FP8") or any(each.wire == "FP8" for each in replicas)

    async def load(self) -> Load:
        """Where shards and experts are busy, looked at once in ``LOAD_SECONDS`` and told in round numbers: from how
        fresh and exact counts change somebody could tell what experts another client's text has chosen.

        Raises:
            NotReadyError: there was none yet.
        """
        report = self.watch.report
        if report is None:
            raise NotReadyError("the directory has not reported yet")
        now = time.monotonic()
        if self._load is None or now - self._load[0] >= LOAD_SECONDS:
            found = await asyncio.to_thread(load_of, report)
            if found is None:
                return Load(layer_rows=0, shards="", bands=())
            self._load = now, found.model_copy(update={"layer_rows": _rounded(found.layer_rows)})
        return self._load[1]

    async def exposition(self) -> bytes:
        """The text that Prometheus scrapes: the same whichever process is asked, but for what happens meanwhile."""
        totals = await self.watch.totals()
        return self.metrics.exposition(totals, self.watch.last, fresh=not self.watch.away)

    def _say(self) -> Said:
        return Said(self.problem is None, self.refused, self.metrics.counts(), self.metrics.gauges())

    def _log_defaults(self) -> None:
        used, unused = self._defaults.sampling, self._defaults.unused
        if used:
            logger.info("generation_config.json: requests that do not say otherwise are sampled with %s", used)
        if unused:
            logger.warning("generation_config.json: would change answers, and is not used here: %s", ", ".join(unused))

    async def _load_tokenizer(self) -> None:
        # A bad model is the directory's to tell, and should not wait for the libraries that read a good one.
        await self.watch.known.wait()
        while self._tokenizer is None:
            try:
                path = await asyncio.to_thread(local_text, self._model_path)
                self._defaults = await asyncio.to_thread(read_defaults, path)
                self._tokenizer = await asyncio.to_thread(ModelTokenizer.load, path)
            except Exception as error:  # transformers and tokenizers raise whatever they like on a bad file
                # Our own errors are written to be read by clients; what others say is for the log.
                own = isinstance(error, ModelError)
                why = str(error) if own else f"{type(error).__name__}, of which the api's log says more; copy it again"
                self._tokenizer_problem = f"the tokenizer of {self._model_path} cannot be loaded: {why}"
                logger.warning(self._tokenizer_problem, exc_info=None if own else error)
                self._tokenizer_tried.set()
                await asyncio.sleep(_LOAD_AGAIN_S)
        self._tokenizer_tried.set()
        self._log_defaults()


def _rounded(count: int) -> int:
    """To two digits."""
    return int(float(f"{count:.1e}"))
