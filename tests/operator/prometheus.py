"""A real Prometheus, which scrapes what a test runs and answers what dashboard and alerts ask."""

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from moe_dev import binaries
from moe_dev.processes import Guarded
from moe_serving.standalone.ports import free_ports

Json = dict[str, Any]
T = TypeVar("T")
READY_SECONDS, SCRAPED_SECONDS = 60.0, 60.0
INTERVAL = "1s"


class PrometheusError(Exception):
    """It did not answer a question; the message says why, in its words."""


@dataclass(frozen=True, slots=True)
class Target:
    """``labels``: those that Prometheus' operator would give to all that is told at ``url``."""

    url: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Series:
    """``figures``: those that are numbers, one for each second in which there was one."""

    labels: Mapping[str, str]
    figures: Sequence[float]


class Prometheus:
    """One that runs, and scrapes each second."""

    def __init__(self, url: str, targets: int) -> None:
        self._url = url
        self._targets = targets
        self._begun = time.time()

    def drawn(self, expression: str) -> list[Series]:
        """What a panel would draw of an expression, from the start until now; those with no figure are left out."""
        times = {"start": self._begun, "end": time.time(), "step": 1}
        found = self._asked("query_range", query=expression, **times)["result"]
        series = (Series(each["metric"], _numbers(value for _, value in each["values"])) for each in found)
        return [each for each in series if each.figures]

    def values(self, label: str, series: str) -> list[str]:
        """Of a label of the series that a selector chooses, as Grafana asks for a variable's."""
        found: list[str] = self._asked(f"label/{label}/values", **{"match[]": series})
        return found

    def rules(self) -> list[Json]:
        """All alerts as they stand, each of which has been evaluated by now."""

        def evaluated() -> list[Json]:
            groups = self._asked("rules")["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            return rules if all(rule["health"] != "unknown" for rule in rules) else []

        return _waited("all rules to be evaluated", evaluated)

    def wait_pending(self, alert: str) -> Json:
        """What is told to people, by annotation, once what an alert asks for is so."""

        def pending() -> list[Json]:
            (rule,) = (each for each in self.rules() if each["name"] == alert)
            return [each["annotations"] for each in rule["alerts"] if each["state"] == "pending"]

        return _waited(f"{alert} to be pending", pending)[0]

    def wait_scraped(self) -> None:
        """Until every target has been read once more."""
        since = time.time()

        def read() -> bool:
            query = f"timestamp(up) > {since:.3f} and up == 1"
            return len(self._asked("query", query=query)["result"]) == self._targets

        _waited(f"{self._targets} targets to be scraped", read)

    def unready(self) -> str | None:
        """Why it does not answer yet."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5):
                return None
        except OSError as error:
            return str(error)

    def _asked(self, what: str, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{what}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise PrometheusError(f"{what} {parameters}: {error.read().decode(errors='replace')}") from None


@contextmanager
def scraping(directory: Path, targets: Sequence[Target], rules: Json | None = None) -> Iterator[Prometheus]:
    """It runs as long as the block; ``rules``: the spec of a PrometheusRule, which it looks at each second."""
    directory.mkdir()
    config: Json = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "scrape_configs": [_scraped(number, target) for number, target in enumerate(targets)],
    }
    if rules is not None:
        # The spec of a PrometheusRule is what Prometheus reads from a file.
        (directory / "rules.yaml").write_text(yaml.safe_dump(rules))
        config["rule_files"] = ["rules.yaml"]
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [
        str(binaries.binary(binaries.PROMETHEUS)),
        "--config.file=prometheus.yaml",
        "--storage.tsdb.path=data",
        f"--web.listen-address={address}",
    ]
    process = Guarded.start("prometheus", command, directory / "prometheus.log", directory=directory)
    try:
        prometheus = Prometheus(f"http://{address}", len(targets))
        process.wait_until("Prometheus", prometheus.unready, READY_SECONDS)
        yield prometheus
    finally:
        process.stop()


def _scraped(number: int, target: Target) -> Json:
    parts = urllib.parse.urlsplit(target.url)
    where = {"targets": [parts.netloc], "labels": dict(target.labels)}
    return {"job_name": f"job-{number}", "metrics_path": parts.path, "static_configs": [where]}


def _numbers(values: Iterable[str]) -> list[float]:
    return [number for number in map(float, values) if math.isfinite(number)]


def _waited(what: str, look: Callable[[], T]) -> T:
    """Its answer, once it is true."""
    end = time.monotonic() + SCRAPED_SECONDS
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {SCRAPED_SECONDS:.0f} s for {what}")
        time.sleep(0.1)
    return found
