"""A model that has been loaded: the engine and its way to the experts. Imports torch, so only where it is needed."""

from __future__ import annotations

from dataclasses import dataclass

from moe_contract.applications import AttentionConfig, ModelArgs
from moe_serving.adaptive.switch import AdaptiveSwitch
from moe_serving.checkpoint import Checkpoint
from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.device import resolve_device
from moe_serving.engine.engine import Engine
from moe_serving.engine.life import SignsOfLife
from moe_serving.fp8.switch import WireSwitch
from moe_serving.routing.client import MAX_REPLY_BYTES, RemoteExperts
from moe_serving.routing.verify import LayerVerifier
from moe_serving.wire.transport import SocketCompletion, SocketFabric


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A running engine, the client through which it asks the shards, whether that may leave pairs out and how it sends
    rows; ``digest`` is of the checkpoint it read."""

    engine: Engine
    experts: RemoteExperts[SocketCompletion]
    adaptive: AdaptiveSwitch
    wire: WireSwitch
    digest: str

    @classmethod
    def load(cls, model: ModelArgs, limits: AttentionConfig, name: str, node: str, number: int) -> LoadedEngine:
        """Load the checkpoint without its experts and start the engine.

        Args:
            number: of the replica, see ``resolve_device``.

        Raises:
            ModelError: the checkpoint cannot be served.
        """
        device = resolve_device(model.device, number)
        facts = Checkpoint.open(model.path).facts(model.dtype)
        fabric = SocketFabric(facts.digest, name, node, model.network, MAX_REPLY_BYTES)
        verifier = LayerVerifier(ExpertReader(model.path, model.dtype, str(device)), device) if model.verify else None
        life = SignsOfLife()
        experts = RemoteExperts(facts.layers, facts.experts, fabric, node, verifier=verifier, on_wait=life.give)
        engine = Engine.load(model.path, model.dtype, str(device), experts, limits, life, experts.note_step)
        engine.start()
        adaptive, wire = AdaptiveSwitch(facts, experts.thin, model.verify), WireSwitch(experts.pack, model.verify)
        loaded = cls(engine, experts, adaptive, wire, facts.digest)
        loaded._configure_experts(limits)
        return loaded

    @property
    def problem(self) -> str | None:
        """What is wrong though it answers; None when nothing is."""
        return self.engine.problem or self.experts.traces.problem or self.adaptive.problem or self.wire.problem

    def reconfigure(self, limits: AttentionConfig) -> None:
        """Take new limits."""
        self.engine.reconfigure(limits)
        self._configure_experts(limits)

    def stop(self, timeout_s: float) -> None:
        """End the engine, then close the connections to the shards."""
        self.engine.stop(timeout_s)
        self.adaptive.close()
        self.experts.close()

    def _configure_experts(self, limits: AttentionConfig) -> None:
        self.experts.gatherer.configure(limits.statistics_seconds)
        self.experts.traces.configure(limits.record)
        self.adaptive.configure(limits.routing)
        self.wire.configure(limits.wire)
