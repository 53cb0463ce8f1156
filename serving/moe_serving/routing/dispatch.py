"""One MoE layer on its way: rounds of requests to shards until every pair of a token and an expert is answered.

In each round every shard that is needed gets one message, then the answers are gathered as they come. What a round
left open is tried again in the next: at another copy when a connection broke, when a shard was late or does not hold an
expert any more. Where no copy is left, the layer waits for a newer table or for a shard to return.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from moe_placement.dispatch import NO_EXPERT, NOBODY
from moe_serving.engine.errors import ExpertsUnavailableError
from moe_serving.experts.messages import FP8_ROWS, ComputeReply
from moe_serving.routing.layer import LayerWork, Part
from moe_serving.routing.recorder import Recorder
from moe_serving.routing.routes import Routes
from moe_serving.routing.table import RoutingTable, ShardAddress
from moe_serving.wire.errors import ConnectionLostError, WireError
from moe_serving.wire.transport import C, Fabric

_RECHECK_SECONDS = 0.25
"""How often a layer that waits looks around by itself, beside being woken."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a layer waits.

    Attributes:
        late_seconds: a shard that has not answered by then is given up, if other copies can take all it was asked. A
            layer takes milliseconds, a busy or swapping host longer; after 5 s a client would begin to wonder. Doubles
            with every shard given up for the same layer: perhaps it is the layer that takes long.
        unavailable_seconds: how long a layer waits where no copy is left. A killed shard is back, its experts loaded,
            well within a minute.
    """

    late_seconds: float = 5.0
    unavailable_seconds: float = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class _Asked(Generic[C]):
    """A request under way."""

    shard: ShardAddress
    part: Part
    completion: C


class LayerDispatch(Generic[C]):
    """Answers the pairs of ``work``; made for one layer and thrown away. What is asked is told to ``recorder``."""

    def __init__(
        self, routes: Routes[C], fabric: Fabric[C], patience: Patience, work: LayerWork, recorder: Recorder
    ) -> None:
        self._routes = routes
        self._fabric = fabric
        self._patience = patience
        self._work = work
        self._recorder = recorder
        self._table = routes.newest
        self._asked: list[_Asked[C]] = []
        self._deadline = time.monotonic() + patience.unavailable_seconds
        self._given_up = 0
        self._first: tuple[RoutingTable, NDArray[np.int64]] | None = None
        self._first_asked: NDArray[np.int64] | None = None
        self._not_held: set[tuple[ShardAddress, int]] = set()

    def begin(self) -> None:
        """Ask whoever can be asked, and do not wait."""
        if self._work.pending.any():
            self._ask_all()

    def finish(self) -> None:
        """Wait for the answers, and ask others until there are all; after ``begin``.

        Raises:
            ExpertsUnavailableError: see ``LayerUnderWay.collect``.
        """
        self._take_answers()
        while self._work.pending.any():
            if not self._ask_all():
                self._wait_for_copies()
            self._take_answers()

    def _ask_all(self) -> bool:
        """Send a request to every shard that is needed; False when none can be asked for what is pending."""
        self._table = self._routes.adopt()
        choice = self._choose()
        if (choice == NOBODY).all():
            return False
        for position, part in self._work.parts(choice):
            request = self._ask(self._table.shards[position], part)
            if request is not None:
                self._asked.append(request)
        self._record(choice)  # while the shards compute
        return True

    def _take_answers(self) -> None:
        asked, self._asked = self._asked, []
        for request, reply in self._gather(asked):
            missing = self._work.accept(request.part, reply)
            if len(missing[0]):
                self._not_held.update((request.shard, int(expert)) for expert in self._work.experts[missing])

    def _choose(self) -> NDArray[np.int64]:
        """A shard's position in the table for every pending pair, int64 ``[T, K]``."""
        experts, pending, layer = self._work.experts, self._work.pending, self._work.layer
        choosers = self._routes.choosers()
        if self._not_held:
            positions = {shard: position for position, shard in enumerate(self._table.shards)}
            known = [(positions[shard], expert) for shard, expert in self._not_held if shard in positions]
            chooser = choosers.without(layer, known)
        else:
            chooser = choosers.of_layer(layer)
        return chooser.choose(experts if pending.all() else np.where(pending, experts, NO_EXPERT))

    def _ask(self, shard: ShardAddress, part: Part) -> _Asked[C] | None:
        transport = self._routes.links.get(shard)
        if transport is None:
            return None
        if part.request.scales is not None and FP8_ROWS not in transport.features:
            part = self._work.plain(part)
        try:
            completion = transport.submit(part.request.to_message())
        except WireError as error:
            self._routes.links.fail(shard, error)
            return None
        return _Asked(shard, part, completion)

    def _gather(self, asked: list[_Asked[C]]) -> list[tuple[_Asked[C], ComputeReply]]:
        """The answers, in the order of ``asked``, whatever the order in which they come: sums must not depend on it."""
        replies: dict[int, ComputeReply] = {}
        waiting = dict(enumerate(asked))
        late = time.monotonic() + self._patience.late_seconds * 2**self._given_up
        while waiting:
            now = time.monotonic()
            timeout = min(late - now, _RECHECK_SECONDS) if now < late else _RECHECK_SECONDS
            self._fabric.wait([request.completion for request in waiting.values()], timeout)
            self._routes.on_wait()
            for number, request in list(waiting.items()):
                if request.completion.done:
                    del waiting[number]
                    reply = self._read(request)
                    if reply is not None:
                        replies[number] = reply
                elif time.monotonic() >= late and self._is_given_up(request):
                    del waiting[number]
        return [(asked[number], replies[number]) for number in sorted(replies)]

    def _read(self, request: _Asked[C]) -> ComputeReply | None:
        try:
            reply = ComputeReply.from_message(request.completion.result(), request.part.request)
        except WireError as error:
            self._routes.links.fail(request.shard, error)
            return None
        self._routes.links.answered(request.shard)
        return reply

    def _is_given_up(self, request: _Asked[C]) -> bool:
        """Give a late shard up when others can take all it was asked; otherwise it is as well to wait for it."""
        table = self._routes.newest
        others = [shard != request.shard and self._routes.is_connected(shard) for shard in table.shards]
        experts = np.unique(self._work.experts[request.part.pairs])
        replaceable = bool((table.held[self._work.layer][experts] & np.array(others, dtype=bool)).any(axis=1).all())
        if not replaceable and time.monotonic() < self._deadline:
            return False
        self._routes.links.fail(request.shard, ConnectionLostError("it did not answer in time"))
        self._given_up += 1
        return True

    def _record(self, choice: NDArray[np.int64]) -> None:
        if self._first is None:
            self._first = self._table, choice
            work = self._work
            self._recorder.record(self._table, work.layer, work.experts, work.gates, choice, work.distinct)
        else:
            self._record_again(*self._first, choice)

    def _record_again(self, table: RoutingTable, first: NDArray[np.int64], choice: NDArray[np.int64]) -> None:
        """``first`` are the positions in ``table`` that were asked first: those of the table in force may be others."""
        asked = table.indices[first] if self._first_asked is None else self._first_asked
        shards = self._table.indices[choice]
        again = (asked != NOBODY) & (shards != NOBODY)
        failovers = int((again & (asked != shards)).sum())
        self._recorder.record_again(self._table, self._work.layer, choice, failovers)
        self._first_asked = np.where(asked == NOBODY, shards, asked)

    def _wait_for_copies(self) -> None:
        """Nobody can be asked for what is pending: sleep until that may have changed.

        Raises:
            ExpertsUnavailableError: patience has run out.
        """
        self._not_held.clear()  # the shards may hold them again by then
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ExpertsUnavailableError(self._explain())
        self._routes.wait_for_change(min(left, _RECHECK_SECONDS))
        self._routes.on_wait()

    def _explain(self) -> str:
        """In words for clients: why each shard is down, with its address, is for the log."""
        table, layer = self._table, self._work.layer
        experts = np.unique(self._work.experts[self._work.pending])
        holders = [table.shards[g] for g in np.flatnonzero(table.held[layer][experts].any(axis=0))]
        for shard in holders:
            logger.warning("layer %d: shard %d is not asked: %s", layer, shard.index, self._routes.links.problem(shard))
        named = [f"shard {shard.index}" for shard in holders]
        return (
            f"layer {layer}: no copy of experts {experts.tolist()} answered within "
            f"{self._patience.unavailable_seconds:g} s; by the table of epoch {table.version.epoch} they are on "
            f"{', '.join(named) or 'no shard'}. Wait for the shards to return, or run more copies"
        )
