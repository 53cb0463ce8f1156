"""What a deployment costs, and what its policy saves: decimal numbers all the way. Pure.

Tokens are rows that went through all layers, those of prompts among them, as the directory counts them. Accelerators
cost whether tokens are computed or not, so a quiet minute makes those of a busy one dearer.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_CEILING, Decimal

from moe_operator.api import MoEDeployment
from moe_operator.api.cost import Cost
from moe_operator.api.resources import asked
from moe_operator.api.status import TIME_FORMAT, CostStatus, time_told
from moe_operator.autoscale.usage import median_pace
from moe_operator.reconcile.world import World

BUSY_SECONDS, QUIET_SECONDS = 60.0, 600.0
"""Between two costs that are told, where tokens came in between and where none did: each status is a write."""
MOST_GAP = timedelta(seconds=900)
"""The longest time over which savings are counted: in a longer one no operator ran, and nobody knows how many shards
did."""
_HOUR, _MILLION = 3600, 1_000_000
_CENT, _FINE, _TENTH = Decimal("0.01"), Decimal("0.0001"), Decimal("0.1")


def next_cost(world: World) -> CostStatus | None:
    """The cost to tell: the one told before until its time is over, then a new one; None where nobody asked for it."""
    moe, now, cost = world.moe, world.now, world.moe.spec.cost
    if cost is None:
        return None
    runs = world.core is not None or bool(world.shard_applications)
    if not world.runtime.is_known or (runs and world.report is None):
        return moe.status.cost
    before, rows = _before(moe), world.report.traffic.layer_rows if world.report else 0
    since = time_told(before.time) if before else None
    if before is None or since is None:
        return _told(world, cost, rows, None, timedelta(0))
    if now < since:  # another leader's clock is behind
        return before
    passed, tokens = now - since, _tokens(world, before, rows)
    if passed.total_seconds() < (BUSY_SECONDS if tokens else QUIET_SECONDS):
        return before
    return _told(world, cost, rows, before, passed, tokens)


def accelerators(world: World) -> tuple[Decimal, Decimal]:
    """Accelerators of all that runs, and of one shard. KubeRay's pods have whole ones, and spare pods as many as
    others."""
    spec, shards = world.moe.spec, len(world.shard_applications)
    of_shard, of_attention = (Decimal(str(asked(role.resources).gpus)) for role in (spec.experts, spec.attention))
    if spec.runtime.kube_ray:
        of_shard, of_attention = (each.to_integral_value(ROUND_CEILING) for each in (of_shard, of_attention))
        shards += spec.runtime.kube_ray.expert_workers.spares if shards else 0
    if not of_shard and not of_attention:
        return Decimal(shards), Decimal(1)
    replicas = sum(replica.ready for replica in world.report.attention) if world.report else 0
    return shards * of_shard + replicas * of_attention, of_shard


def _told(
    world: World, cost: Cost, rows: int, before: CostStatus | None, passed: timedelta, tokens: int = 0
) -> CostStatus:
    count, of_shard = accelerators(world)
    per_hour = count * cost.price
    seconds = int(passed.total_seconds())
    per_second = Decimal(tokens) / seconds if seconds else Decimal(0)
    per_million = per_hour * _MILLION / (per_second * _HOUR) if tokens else None
    itl = median_pace(world.report.figures.paces) if tokens and world.report and world.report.figures else None
    saved = _saved(world, before, passed)
    return CostStatus(
        time=world.now.strftime(TIME_FORMAT),
        layer_rows=rows,
        currency=cost.currency,
        accelerators=_text(count, _FINE),
        per_hour=_text(per_hour, _CENT),
        tokens_per_second=_text(per_second, _TENTH) if before else None,
        per_million_tokens=_text(per_million, _FINE) if per_million is not None else None,
        seconds_per_thousand_tokens=_text(Decimal(itl) * 1000, _TENTH) if itl is not None else None,
        saved_shard_seconds=saved,
        saved=_text(saved * of_shard * cost.price / _HOUR, _CENT) if saved is not None else None,
    )


def _saved(world: World, before: CostStatus | None, passed: timedelta) -> int | None:
    """Seconds of shards that the policy saved by running fewer than its upper bound; None without a policy."""
    policy = world.moe.spec.experts.autoscaling
    if policy is None:
        return None
    earlier = before.saved_shard_seconds if before else None
    fewer = max(0, policy.max_shards - len(world.shard_applications))
    return (earlier or 0) + fewer * int(min(passed, MOST_GAP).total_seconds())


def _tokens(world: World, before: CostStatus, rows: int) -> int:
    """Tokens since the cost told before; a directory that has restarted counts from 0 again."""
    layers = world.facts.layers if world.facts else 0
    return max(0, rows - before.layer_rows) // layers if layers else 0


def _before(moe: MoEDeployment) -> CostStatus | None:
    """The cost told before; None if it was in another currency, from which nothing can be gone on."""
    told, cost = moe.status.cost, moe.spec.cost
    return told if told and cost and told.currency == cost.currency else None


def _text(number: Decimal, step: Decimal) -> str:
    return f"{number.quantize(step):f}"
