"""Looks at the traffic as the operator's loop takes them: its own proposals, carried out where they are accepted.

What the loop adds, when it looks, how it tells and whether it rolls back, is not here.
"""

from __future__ import annotations

import time

from benchmarks.rebalancing.replay import Replay
from moe_operator.placements.validity import Ground, judge
from moe_operator.rebalance.modelled import topology_of
from moe_operator.rebalance.proposal import Proposal, Question, propose
from moe_operator.rebalance.recent import Mark
from moe_placement.encoding import encode_placement
from moe_placement.statistics import encode_statistics

LEAST_GAIN, HORIZON_S, LINK = 0.03, 3600.0, 1.25e9
"""As ``spec.rebalance`` has them by default."""


class Looks:
    """Attributes:
    topology: what runs as the operator models it.
    proposals: of all looks.
    """

    def __init__(self, through: Replay, slots: int, rows_per_step: float) -> None:
        facts = through.cluster.facts
        told = sorted(through.cluster.report().shards, key=lambda shard: shard.index)
        self._nodes = tuple(shard.node for shard in told)
        self.topology = topology_of(
            self._nodes, (slots,) * len(told), facts.bytes_per_expert, facts.dtype, rows_per_step, LINK
        )
        self.proposals: list[Proposal] = []
        self._through = through
        self._rows_per_step = rows_per_step
        self._marks: tuple[Mark, ...] = ()
        self._revision = 1

    @property
    def moves(self) -> int:
        """Proposals accepted."""
        return sum(proposal.accepted for proposal in self.proposals)

    def look(self) -> Proposal:
        """Ask for a proposal, and migrate to it where it is accepted."""
        statistics = self._through.cluster.statistics()
        packed = bytearray(encode_statistics(statistics)) if statistics is not None else bytearray()
        question = self._question()
        proposal = propose(packed, question)
        self.proposals.append(proposal)
        self._marks = proposal.marks
        if proposal.accepted and proposal.content is not None:
            placement = judge(proposal.content, question.ground).placement
            if placement is None:
                raise RuntimeError(f"an accepted placement does not fit: {proposal.message}")
            self._revision += 1
            self._through.migrate(placement)
        return proposal

    def _question(self) -> Question:
        facts, now = self._through.cluster.facts, self._through.placement
        return Question(
            now=time.time(),
            ground=Ground(facts.digest, facts.layers, facts.experts, now.shards, now.shard_slots[0], 1, self._revision),
            revision=self._revision + 1,
            running=encode_placement(now),
            nodes=self._nodes,
            bytes_per_expert=facts.bytes_per_expert,
            dtype=facts.dtype,
            rows_per_step=self._rows_per_step,
            link=LINK,
            least_gain=LEAST_GAIN,
            horizon=HORIZON_S,
            marks=self._marks,
        )
