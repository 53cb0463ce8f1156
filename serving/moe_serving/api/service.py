"""What the routes need: the model, its bounds, the keys and the source of tokens. One per api process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from moe_placement.wire.applications import ApiConfig
from moe_placement.wire.base import in_words
from moe_placement.wire.report import DirectoryReport
from moe_serving.api.defaults import NO_DEFAULTS, GenerationDefaults, read_defaults
from moe_serving.api.errors import NotFoundError, NotReadyError
from moe_serving.api.metrics import ServingMetrics
from moe_serving.api.plan import Bounds, bounds_of, context_of
from moe_serving.api.source import TokenSource
from moe_serving.api.tokenizer import ModelTokenizer
from moe_serving.api.watch import DirectoryWatch

_LOAD_AGAIN_S = 2.0
"""Pause before a tokenizer that could not be read is tried again: it may still be on its way to this node."""

logger = logging.getLogger(__name__)


class Service:
    """State of one api process.

    Attributes:
        config: the one accepted last; None before the first: nobody is let in while it is unknown who may.
        refused: why the last ``user_config`` was not taken, if so.
        source: of tokens; set by who builds this service, since a source may count its failovers in ``metrics``.
        created: seconds since the epoch, for ``/v1/models``.
    """

    source: TokenSource

    def __init__(self, model_path: str, fetch_report: Callable[[], Awaitable[DirectoryReport]]) -> None:
        self.config: ApiConfig | None = None
        self.refused: str | None = None
        self.fetch_report = fetch_report
        self.watch = DirectoryWatch(fetch_report)
        self.metrics = ServingMetrics(lambda: self.watch.last)
        self.created = int(time.time())
        self._model_path = model_path
        self._tokenizer: ModelTokenizer | None = None
        self._tokenizer_problem: str | None = None
        self._defaults = NO_DEFAULTS

    def configure(self, config: object) -> None:
        """Take new names, bounds and keys (``ApiConfig`` as JSON data). Never raises: what cannot be read is told, and
        the old ones stay in force.
        """
        try:
            self.config, self.refused = ApiConfig.model_validate(config), None
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
        """OpenAI's ``system_fingerprint``: changes with the checkpoint."""
        digest = self.watch.facts.digest if self.watch.facts else ""
        return f"fp_{digest.removeprefix('sha256:')[:12]}"

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
                self._defaults = await asyncio.to_thread(read_defaults, self._model_path)
                self._tokenizer = await asyncio.to_thread(ModelTokenizer.load, self._model_path)
            except Exception as error:  # noqa: BLE001 - transformers and tokenizers raise whatever they like on a bad file
                self._tokenizer_problem = f"the tokenizer of {self._model_path} cannot be loaded: {error}"
                logger.warning(self._tokenizer_problem)
                await asyncio.sleep(_LOAD_AGAIN_S)
        self._log_defaults()
