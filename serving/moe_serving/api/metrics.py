"""Prometheus metrics of one deployment: what all api processes have counted together, and what the directory reports.

Each process counts for itself; the sum of all comes from the ledger that they share through the directory.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from moe_contract.report import AdaptiveReport, DirectoryReport
from moe_serving.directory.ledger import Counts, Key, exact

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
"""The last ones tell a queue that is too long from one that stands still."""
_CREATED = "_created"
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
"""Names of the samples of a family. When a sum was created (``_created``) nobody can say."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all api processes: counters over all there ever were, gauges over those that live."""

    counts: Counts
    gauges: Counts


class ServingMetrics:
    """What this process counts, under one registry of its own: Ray's exporter would rename the metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "moe_http_requests", "HTTP requests answered.", ["route", "code"], registry=self.registry
        )
        self.ignored_fields = Counter(
            "moe_ignored_fields", "Fields of requests that no schema knows.", registry=self.registry
        )
        self.first_token = Histogram(
            "moe_time_to_first_token_seconds",
            "From a request's submission to its first token.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.inter_token = Histogram(
            "moe_inter_token_seconds",
            "From one token of an answer to the next.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter("moe_prompt_tokens", "Tokens of prompts.", registry=self.registry)
        self.completion_tokens = Counter("moe_completion_tokens", "Tokens of answers.", registry=self.registry)
        self.waiting = Gauge("moe_answers_waiting", "Answers without a token yet.", registry=self.registry)
        self.running = Gauge("moe_answers_running", "Answers being written.", registry=self.registry)
        self.attention_failovers = Counter(
            "moe_attention_failovers",
            "Answers that another attention replica went on with.",
            registry=self.registry,
        )

    def counts(self) -> Counts:
        """What this process has counted since it started, without zeros."""
        return {
            _key(sample): exact(sample.value)
            for family in self.registry.collect()
            if family.type != "gauge"
            for sample in family.samples
            if sample.value and not sample.name.endswith(_CREATED)
        }

    def gauges(self) -> Counts:
        """What is so in this process now."""
        families = (family for family in self.registry.collect() if family.type == "gauge")
        return {_key(sample): sample.value for family in families for sample in family.samples}

    def exposition(self, totals: Totals | None, last: tuple[DirectoryReport, float] | None, fresh: bool) -> bytes:
        """The text that Prometheus scrapes.

        Args:
            totals: of all api processes; None where they cannot be told: what is missing for a while is a gap to
                whoever reads it, and what falls is a restart.
            last: the directory's last report and its age in seconds.
            fresh: whether another api process could not have a later one: else its counters are left out, too.
        """
        families: list[Metric] = list(_together(self.registry, totals)) if totals else []
        return generate_latest(_Families([*families, *_reported(last, fresh)]))


class RequestTimer:
    """Files the times of one answer; a context manager around its life."""

    def __init__(self, metrics: ServingMetrics) -> None:
        self._metrics = metrics
        self._last = time.monotonic()
        self._begun = False

    def __enter__(self) -> RequestTimer:
        self._metrics.waiting.inc()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self._metrics.running if self._begun else self._metrics.waiting).dec()

    def tokens(self, count: int) -> None:
        """``count`` tokens have just come."""
        if not count:
            return
        now = time.monotonic()
        passed, self._last = now - self._last, now
        self._metrics.completion_tokens.inc(count)
        if self._begun:
            for _ in range(count):
                self._metrics.inter_token.observe(passed / count)
            return
        self._begun = True
        self._metrics.first_token.observe(passed)
        self._metrics.waiting.dec()
        self._metrics.running.inc()


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _key(sample: Sample) -> Key:
    return sample.name, tuple(sorted(sample.labels.items()))


def _together(registry: CollectorRegistry, totals: Totals) -> Iterator[Metric]:
    """The families of this process with the samples of all."""
    for family in registry.collect():
        values = totals.gauges if family.type == "gauge" else totals.counts
        names = {family.name + suffix for suffix in _SUFFIXES[family.type]}
        # Ours first: they are all buckets of a histogram, in order, also those that nobody has counted in.
        ours = [_key(sample) for sample in family.samples if sample.name in names]
        others = sorted(key for key in values if key[0] in names)
        summed = Metric(family.name, family.documentation, family.type)
        for name, labels in dict.fromkeys((*ours, *others)):
            summed.add_sample(name, dict(labels), values.get((name, labels), 0.0))
        yield summed


def _reported(last: tuple[DirectoryReport, float] | None, fresh: bool) -> Iterator[Metric]:
    if last is None:
        return
    report, age_s = last
    yield _gauge("moe_report_age_seconds", "Since the directory told what follows here.", age_s)
    yield _gauge("moe_routing_epoch", "Epoch of the routing table in force.", report.epoch)
    yield _gauge("moe_shards_wanted", "Expert shards that should run.", len(report.shards))
    yield _gauge("moe_shards_ready", "Expert shards that answer.", _count(s.phase == "Ready" for s in report.shards))
    yield _gauge("moe_attention_ready", "Attention replicas that answer.", _count(a.ready for a in report.attention))
    yield _gauge("moe_kv_cache_tokens", "Tokens of cache in use.", sum(a.kv_tokens for a in report.attention))
    yield _gauge("moe_answers_queued", "Answers that wait for a place.", sum(a.waiting for a in report.attention))
    yield _gauge("moe_placement_copies_wanted", "Expert copies of the placement wanted.", report.progress.total)
    yield _gauge("moe_placement_copies_placed", "Those of them in place.", report.progress.copied)
    if (figures := report.figures) is not None:
        text = "Shards that a token visits per MoE layer, on average, by the routing table in force."
        yield _gauge("moe_expert_fan_out", text, figures.fan_out)
    if (adaptive := next((each.adaptive for each in report.attention if each.adaptive), None)) is not None:
        yield from _adaptive(adaptive)
    if not fresh:
        return
    yield CounterMetricFamily(
        "moe_expert_failovers",
        "Token-expert pairs answered by another copy than asked first.",
        report.traffic.failovers,
    )
    traffic = report.traffic
    text = "Token-expert pairs that gates chose, and adaptive routing left out."
    yield CounterMetricFamily("moe_expert_pairs_skipped", text, traffic.pairs_skipped)
    text = "Distinct experts of a step and layer, while adaptive routing was in force: that gates chose."
    yield CounterMetricFamily("moe_experts_chosen", text, traffic.experts_chosen)
    yield CounterMetricFamily("moe_experts_touched", "Those that were left of them.", traffic.experts_touched)
    load = CounterMetricFamily("moe_shard_token_pairs", "Token-expert pairs sent to a shard.", labels=["shard"])
    text = "Bytes of experts that a shard's process has got from other shards, or read from the checkpoint."
    loaded = CounterMetricFamily("moe_shard_loaded_bytes", text, labels=["shard", "source"])
    text = "Experts from other shards that a shard's process did not take, since they were damaged or made no sense."
    refused = CounterMetricFamily("moe_shard_transfers_refused", text, labels=["shard"])
    text = "Copies of experts that a shard's process gave up, since they had changed in its memory."
    damaged = CounterMetricFamily("moe_shard_copies_damaged", text, labels=["shard"])
    busy = CounterMetricFamily(
        "moe_shard_busy_seconds", "Time in which a shard's process answered somebody.", labels=["shard"]
    )
    for shard in report.shards:
        busy.add_metric([str(shard.index)], shard.busy_us / 1e6)
        load.add_metric([str(shard.index)], shard.pairs)
        loaded.add_metric([str(shard.index), "peer"], shard.from_peers)
        loaded.add_metric([str(shard.index), "checkpoint"], shard.from_checkpoint)
        refused.add_metric([str(shard.index)], shard.refused)
        damaged.add_metric([str(shard.index)], shard.damaged)
    yield from (load, busy, loaded, refused, damaged)


def _adaptive(adaptive: AdaptiveReport) -> Iterator[Metric]:
    text = "Percent of token-expert pairs that adaptive routing is asked to leave out."
    yield _gauge("moe_adaptive_pairs_saved_wanted", text, adaptive.pairs_saved)
    text = "What that cost on held-out text, in nats per token: the mean, and a 95% interval."
    loss = GaugeMetricFamily("moe_adaptive_loss_increase", text, labels=["bound"])
    loss.add_metric(["low"], adaptive.loss_low)
    loss.add_metric(["mean"], adaptive.loss_increase)
    loss.add_metric(["high"], adaptive.loss_high)
    yield loss


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _count(truths: Iterable[bool]) -> int:
    return sum(truths)
