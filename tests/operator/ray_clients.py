"""Deployments on a real Ray as their clients see them: specs, tokens, streams; for end-to-end tests."""

import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import openai
from moe_objects import Objects
from reference import reference_greedy
from transformers import AutoTokenizer

from moe_contract.base import CONTRACT
from moe_contract.report import CONTRACT_HEADER, INTERNAL_REPORT_PATH, DirectoryReport
from moe_dev.paths import CLONE
from moe_dev.raylocal import LocalRay

TINY = CLONE / "models" / "tiny"
# For two cores on which other things run too; on an idle machine it is seconds.
START = 180.0
CHANGE = 120.0
PROMPT = "def read_lines(path):\n"
LENGTH = 12


def spec(ray: LocalRay, path: Path | str = TINY, shards: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "model": {"source": {"path": str(path)}, **more.pop("model", {})},
        "experts": {"shards": shards, **more.pop("experts", {})},
        "api": {"minReplicas": 1, "maxReplicas": 1},  # two start more slowly
        "runtime": {
            "rayCluster": {
                "dashboardURL": ray.dashboard_url,
                "serveURL": ray.serve_url,
                "tokenSecretRef": {"name": "ray-token"},
            }
        },
        **more,
    }


def client(objects: Objects, name: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=objects.status(name)["url"], api_key=key, max_retries=0, timeout=60)


def report(objects: Objects, name: str) -> DirectoryReport:
    """What the directory tells the operator."""
    key = objects.secret_value(f"{name}-moe-internal", "key")
    with client(objects, name, key) as api:
        url = objects.status(name)["url"].removesuffix("/v1") + INTERNAL_REPORT_PATH
        headers = {CONTRACT_HEADER: str(CONTRACT)}
        return DirectoryReport.model_validate_json(api.get(url, cast_to=str, options={"headers": headers}))


def tokens(objects: Objects, name: str, model: str | None = None, key: str = "none") -> str:
    """What the model says, streamed."""
    with client(objects, name, key) as api:
        stream = api.completions.create(
            model=model or name, prompt=PROMPT, max_tokens=LENGTH, temperature=0, stream=True
        )
        return "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def reference() -> str:
    """What plain transformers answers, with the whole model in one process: greedy, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(TINY, local_files_only=True)
    (answer,) = reference_greedy(TINY, [tokenizer(PROMPT).input_ids], LENGTH)
    return str(tokenizer.decode(answer, skip_special_tokens=True))


def replicas(ray: LocalRay, role: str) -> list[tuple[int, dict[str, float]]]:
    """Process and resources of each replica of a deployment, such as ``experts``, that Ray runs."""
    request = urllib.request.Request(
        f"{ray.dashboard_url}/api/v0/actors?detail=1&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE",
        headers={"Authorization": f"Bearer {ray.token}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        actors = json.loads(answer.read())["data"]["result"]["result"]
    ours = [actor for actor in actors if actor["class_name"].startswith("ServeReplica:moe.")]
    return [
        (actor["pid"], actor["required_resources"] or {})
        for actor in ours
        if actor["class_name"].rpartition(":")[2] == role
    ]


def gpus_asked(ray: LocalRay, role: str) -> list[float]:
    """What each of them asked for."""
    return [resources.get("GPU", 0.0) for _, resources in replicas(ray, role)]


class Streams:
    """Clients that stream one answer after the other without trying again.

    The first failure of any, or an answer other than ``right``, ends the test.
    """

    def __init__(self, objects: Objects, name: str, count: int, right: str) -> None:
        self.answers = 0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._clients = [self._pool.submit(self._keep_asking, objects, name, right) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for ended in self._clients:
            ended.result()

    def flowing(self) -> None:
        """Until each has had time for another answer."""
        wanted, deadline = self.answers + len(self._clients), time.monotonic() + CHANGE
        while self.answers < wanted:
            for ended in self._clients:
                if ended.done():
                    ended.result()
            assert time.monotonic() < deadline, f"waited {CHANGE:.0f} s for {wanted} answers: {self.answers}"
            time.sleep(0.05)

    def _keep_asking(self, objects: Objects, name: str, right: str) -> None:
        while not self._stop.is_set():
            assert tokens(objects, name) == right
            self.answers += 1
