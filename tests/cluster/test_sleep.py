"""A deployment that sleeps: a request with a key wakes it and is answered, one without wakes nobody."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from answers import BODY, unsharded
from deployed import NAME, SHARDS, SYSTEM, Deployed, start
from figures import Figures

from moe_dev.helm import CHART, Helm

pytestmark = [pytest.mark.whole, pytest.mark.node]

KEY, OTHER = "k" * 40, "o" * 40
# Bounds on a busy machine; the activator itself gives up after 120 s.
GONE_SECONDS, ANSWER_SECONDS = 180.0, 150.0


@pytest.fixture
def activator(operator: Helm, deployed: Deployed) -> Iterator[None]:
    kubectl, name = deployed.nodes.kubectl, "moe-operator-activator"
    change = ("upgrade", "moe-operator", str(CHART), "-n", SYSTEM, "--reuse-values", "--set")
    operator.run(*change, "activator.enabled=true,activator.replicas=1")
    start(kubectl, name, "moe_operator.activator.main")
    for deployment in ("moe-operator", name):
        kubectl.run("rollout", "status", f"deployment/{deployment}", "-n", SYSTEM, "--timeout=120s", timeout=130.0)
    yield
    operator.run(*change, "activator.enabled=false")


def asked(url: str, key: str | None = None) -> tuple[int, str]:
    """The status of the answer, and its text or the code of an error."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{url}/completions", BODY.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return answer.status, json.load(answer)["choices"][0]["text"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["code"]


def held(deployed: Deployed) -> bool:
    """Whether requests are led to the activator."""
    found = deployed.nodes.kubectl.get("endpointslice", f"{NAME}-moe-activation", deployed.namespace) or {}
    return bool(found.get("endpoints"))


def test_a_request_with_a_key_wakes_it_and_is_answered(deployed: Deployed, activator: None, figures: Figures) -> None:
    deployed.wait_whole()
    objects, url = deployed.objects, deployed.url()
    assert url is not None
    objects.secret("keys", "api-keys", one=KEY)
    deployed.patch(serving={"apiKeysSecretRef": {"name": "keys"}}, sleep={"afterIdle": "1h"})
    try:
        objects.wait("a key to be asked for", lambda: asked(url) == (401, "invalid_api_key"))
        objects.wait_condition(NAME, "SleepsWhenIdle", "True", "AsExpected")
        objects.scale(NAME, 0)
        objects.wait("its pods to go", lambda: not deployed.lives(), GONE_SECONDS)
        objects.wait_condition(NAME, "Ready", "True", "Asleep")
        assert held(deployed)
        for key in (None, OTHER):
            assert asked(url, key) == (401, "invalid_api_key")
        assert deployed.shards_wanted() == 0
        assert not deployed.nodes.kubectl.get("rayservice", NAME, deployed.namespace)

        begun = time.monotonic()
        answer = asked(url, KEY)
        figures.add("a request to one that sleeps, until it is answered", time.monotonic() - begun, 60)
        assert answer == (200, unsharded())
        assert deployed.shards_wanted() == SHARDS
        deployed.wait_whole()
        objects.wait("requests to go past the activator", lambda: not held(deployed))
        assert asked(url, KEY) == (200, unsharded())
        assert asked(url)[0] == 401
    finally:
        deployed.patch(serving={"apiKeysSecretRef": None}, sleep=None, experts={"shards": SHARDS})
    objects.wait("no key to be asked for", lambda: deployed.first_token() is None)
    deployed.wait_whole()
