"""``moe-operator trial``: makes a MoEDeployment, sees what the operator makes of it, asks it, and deletes it.

`helm test` runs it. Without a spec the deployment's Ray is nowhere, which still shows that the operator sees objects,
tells their state, and lets them go.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from moe_operator.api.names import API_VERSION, KIND
from moe_operator.api.reasons import ConditionType
from moe_operator.errors import OperatorError
from moe_operator.kube.api import Json
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import NotFoundError
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.process.exits import ExitCode

NOWHERE: Json = {
    "model": {"source": {"path": "/nowhere"}},
    "runtime": {"rayCluster": {"dashboardURL": "http://ray.invalid:8265", "serveURL": "http://ray.invalid:8000"}},
    "experts": {"shards": 1},
}
"""``invalid`` is a name that nobody can have (RFC 2606)."""

POLL_SECONDS = 1.0
TOKENS = 4
DELETION_SECONDS = 120.0


class TrialError(OperatorError):
    """What was tried did not work; the message says which step, and what the deployment's conditions are."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One deployment that is tried, in a namespace.

    Attributes:
        spec: of the MoEDeployment; empty for one whose Ray is nowhere.
        seconds: until it must be served.
    """

    client: KubeClient
    namespace: str
    spec: Json
    seconds: float

    async def run(self) -> None:
        """Raises ``OperatorError``; the deployment is deleted in any case."""
        name = f"moe-trial-{secrets.token_hex(3)}"
        metadata = {"name": name, "namespace": self.namespace}
        manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": self.spec or NOWHERE}
        made = await self.client.create(MOE_DEPLOYMENTS, manifest)
        _say(f"made MoEDeployment {self.namespace}/{name}")
        try:
            if self.spec:
                ready = await self._wait(name, "to be served", _is_ready)
                _say(f"it says: {await _ask(ready['status']['url'])!r}")
            else:
                seen = await self._wait(name, "the operator to look at it", _is_looked_at)
                _say(f"the operator says: {_conditions(seen)}")
        finally:
            await self.client.delete(MOE_DEPLOYMENTS, self.namespace, name, made["metadata"]["uid"])
            await self._wait_gone(name)
            _say("it is deleted")

    async def _wait(self, name: str, what: str, check: Callable[[Json], bool]) -> Json:
        seen: Json = {}
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    seen = await self.client.get(MOE_DEPLOYMENTS, self.namespace, name)
                    if check(seen):
                        return seen
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise TrialError(f"waited {self.seconds:.0f} s for {what}; its conditions: {_conditions(seen)}") from None

    async def _wait_gone(self, name: str) -> None:
        try:
            async with asyncio.timeout(DELETION_SECONDS):
                while True:
                    await self.client.get(MOE_DEPLOYMENTS, self.namespace, name)
                    await asyncio.sleep(POLL_SECONDS)
        except NotFoundError:
            return
        except TimeoutError:
            raise TrialError(f"{name} is still there {DELETION_SECONDS:.0f} s after its deletion") from None


def trial(kubeconfig: Path | None, namespace: str, spec: Path | None, seconds: float) -> ExitCode:
    """Try it and say how it went; ``spec`` is a YAML file, empty or None for a deployment whose Ray is nowhere."""

    async def run(wanted: Json) -> None:
        async with await KubeClient.connect(kubeconfig) as client:
            await Trial(client, namespace, wanted, seconds).run()

    try:
        asyncio.run(run((yaml.safe_load(spec.read_text()) if spec else None) or {}))
    except (OperatorError, OSError, yaml.YAMLError) as error:
        print(f"the trial failed: {error}", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.OK


def _is_ready(moe: Json) -> bool:
    return any(each["type"] == ConditionType.READY and each["status"] == "True" for each in _told(moe))


def _is_looked_at(moe: Json) -> bool:
    return any(each["type"] == ConditionType.READY for each in _told(moe))


def _told(moe: Json) -> list[Json]:
    conditions: list[Json] = moe.get("status", {}).get("conditions", [])
    return conditions


def _conditions(moe: Json) -> str:
    return "; ".join(f"{c['type']}={c['status']} {c['reason']}: {c['message']}" for c in _told(moe)) or "none yet"


async def _ask(url: str) -> str:
    """The first tokens of an answer, from the deployment's own API."""
    body = {"prompt": "Once upon a time", "max_tokens": TOKENS, "temperature": 0}
    timeout = aiohttp.ClientTimeout(total=60)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"{url}/models") as answer:
                answer.raise_for_status()
                body["model"] = (await answer.json())["data"][0]["id"]
            async with session.post(f"{url}/completions", json=body) as answer:
                answer.raise_for_status()
                text: str = (await answer.json())["choices"][0]["text"]
    except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError, LookupError) as error:
        raise TrialError(f"{url} does not answer as it should: {type(error).__name__} {error}") from error
    return text


def _say(text: str) -> None:
    print(text, flush=True)
