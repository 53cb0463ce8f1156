"""Prometheus metrics of one deployment: what the api measures itself, and what the directory last reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from moe_placement.wire.report import DirectoryReport

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
"""The last ones tell a queue that is too long from one that stands still."""


class ServingMetrics:
    """All metrics under one registry of their own: Ray's exporter would rename them."""

    def __init__(self, report: Callable[[], tuple[DirectoryReport, float] | None]) -> None:
        """``report``: the directory's last one and its age in seconds."""
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
        self.registry.register(_ReportCollector(report))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


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


class _ReportCollector(Collector):
    def __init__(self, report: Callable[[], tuple[DirectoryReport, float] | None]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        last = self._report()
        if last is None:
            return
        report, age_s = last
        yield _gauge("moe_report_age_seconds", "Since the directory told what follows here.", age_s)
        yield _gauge("moe_routing_epoch", "Epoch of the routing table in force.", report.epoch)
        yield _gauge("moe_shards_wanted", "Expert shards that should run.", len(report.shards))
        yield _gauge(
            "moe_shards_ready", "Expert shards that answer.", _count(s.phase == "Ready" for s in report.shards)
        )
        yield _gauge(
            "moe_attention_ready", "Attention replicas that answer.", _count(a.ready for a in report.attention)
        )
        yield _gauge("moe_kv_cache_tokens", "Tokens of cache in use.", sum(a.kv_tokens for a in report.attention))
        yield _gauge("moe_answers_queued", "Answers that wait for a place.", sum(a.waiting for a in report.attention))
        yield _gauge("moe_placement_copies_wanted", "Expert copies of the placement wanted.", report.progress.total)
        yield _gauge("moe_placement_copies_placed", "Those of them in place.", report.progress.copied)
        traffic = report.traffic
        if traffic.tokens:
            fan_out = traffic.visits / traffic.tokens
            yield _gauge("moe_expert_fan_out", "Shards that a token visits per MoE layer, on average.", fan_out)
        yield CounterMetricFamily(
            "moe_expert_failovers", "Token-expert pairs answered by another copy than asked first.", traffic.failovers
        )
        load = CounterMetricFamily("moe_shard_token_pairs", "Token-expert pairs sent to a shard.", labels=["shard"])
        for shard in report.shards:
            load.add_metric([str(shard.index)], shard.tokens)
        yield load


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _count(truths: Iterable[bool]) -> int:
    return sum(truths)
