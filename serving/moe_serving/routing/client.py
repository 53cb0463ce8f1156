"""The engine's experts client: a MoE layer computed by the shards that hold its experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic

from torch import Tensor

from moe_placement import dispatch
from moe_serving.adaptive.thinning import Thinning
from moe_serving.engine.experts import ExpertsClient
from moe_serving.routing import cuts
from moe_serving.routing.dispatch import LayerDispatch, Patience
from moe_serving.routing.gatherer import Gathered, Gatherer, Sets
from moe_serving.routing.layer import LayerWork
from moe_serving.routing.recorder import Recorder
from moe_serving.routing.routes import Routes
from moe_serving.routing.table import RoutingTable, TableVersion
from moe_serving.routing.trace_files import TraceFiles
from moe_serving.routing.verify import LayerVerifier
from moe_serving.routing.window import Window
from moe_serving.wire.transport import C, Fabric

MAX_REPLY_BYTES = 1 << 29
"""Of one answer: float32 rows, twice the bytes of the largest request in bfloat16."""


class RemoteExperts(ExpertsClient, Generic[C]):
    """``submit`` and ``collect`` are for the engine's thread, all else for any.

    Making one compiles what chooses copies and cuts requests, or loads it from where it is kept: never a step.

    Args:
        layers, experts: of the model.
        fabric: how shards are reached; ``wire.transport.SocketFabric`` with the model's digest as subject.
        node: the node we run on; copies on it are preferred.
        verifier: verify mode; recomputes and compares every answer.
        on_wait: called by the engine's thread while it waits for shards, several times a second: it is not stuck.

    Attributes:
        gatherer: of statistics.
        traces: files of whole expert sets, where they are asked for.
    """

    def __init__(
        self,
        layers: int,
        experts: int,
        fabric: Fabric[C],
        node: str,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        verifier: LayerVerifier | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        dispatch.prepare()
        cuts.prepare()
        self._fabric = fabric
        self._patience = patience
        self._verifier = verifier
        self._routes = Routes(layers, experts, fabric, node, on_wait)
        self.gatherer = Gatherer(layers, experts)
        self.traces = TraceFiles(experts)
        self._recorder = Recorder(node, self._keep)
        self._thinning: Thinning | None = None
        self._packs = False

    def thin(self, thinning: Thinning | None) -> None:
        """Leave pairs out from the next layer on; None, as at first, has all computed."""
        self._thinning = thinning

    def pack(self, packs: bool) -> None:
        """From the next layer on, whether rows travel as FP8 to shards that know it; at first they do not."""
        self._packs = packs

    def update(self, table: RoutingTable) -> None:
        """Put a newer table in force, also for a layer that waits for it; an older one is ignored."""
        self._routes.update(table)

    @property
    def version(self) -> TableVersion:
        """The table version to acknowledge: no layer under way is behind it."""
        return self._routes.version

    def note_step(self, rows: int, tokens: int, seconds: float, context: int) -> None:
        """A ``StepListener`` of the engine: what steps take is told with the windows."""
        self._recorder.note_step(rows, tokens, seconds, context)

    @property
    def has_windows(self) -> bool:
        """Whether a window of counts is over."""
        return self._recorder.has_windows

    def take_windows(self) -> tuple[Window, ...]:
        """What was routed since the last call; see ``Recorder.take``."""
        taken = self._recorder.take()
        self.traces.write_due()
        return taken

    @property
    def has_statistics(self) -> bool:
        """Whether a window of statistics has ended."""
        return self.gatherer.has_window

    def take_statistics(self) -> Gathered | None:
        """See ``Gatherer.take``."""
        return self.gatherer.take()

    def close(self) -> None:
        """Close all connections; the engine must have stopped."""
        self._routes.close()
        self.traces.close()

    def _keep(self, sets: Sets) -> None:
        self.gatherer.add(sets)
        self.traces.add(sets)

    def submit(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> LayerUnderWay[C]:
        """See ``ExpertsClient.submit``; a shard that cannot be asked now is seen to by ``collect``."""
        work = LayerWork(layer, hidden, expert_ids, weights, self._verifier is not None, self._packs)
        thinning = self._thinning
        if thinning is not None:
            work.keep(*thinning.thin(layer, work.experts, work.gates))
        dispatch = LayerDispatch(self._routes, self._fabric, self._patience, work, self._recorder)
        try:
            dispatch.begin()
        except BaseException:
            self._routes.release()
            raise
        check = partial(self._verifier.check, layer, hidden, expert_ids, weights) if self._verifier else None
        return LayerUnderWay(dispatch, work, self._routes, check)


@dataclass(frozen=True, slots=True, eq=False)
class LayerUnderWay(Generic[C]):
    """A layer of which the shards were asked.

    Attributes:
        check: verify mode; is given the outputs of all pairs, and raises VerificationError where one is wrong.
    """

    dispatch: LayerDispatch[C]
    work: LayerWork
    routes: Routes[C]
    check: Callable[[Tensor], None] | None

    def collect(self) -> Tensor:
        """See ``Pending.collect``.

        Raises:
            ExpertsUnavailableError: for some expert no copy answered within ``patience.unavailable_seconds``.
            VerificationError: verify mode, and an answer was wrong.
        """
        try:
            self.dispatch.finish()
        finally:
            self.routes.release()
        if self.check is not None:
            self.check(self.work.pair_outputs())
        return self.work.result()
