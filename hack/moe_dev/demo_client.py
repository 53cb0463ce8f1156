"""How the demo talks to a deployment: as an OpenAI client would, and by the operator's route to the directory."""

import base64
import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import openai

from moe_contract.base import CONTRACT
from moe_contract.report import CONTRACT_HEADER, INTERNAL_REPORT_PATH, DirectoryReport
from moe_dev.kube import Kubectl
from moe_operator.kube.secrets import INTERNAL_KEY, internal_key_name

ANSWER_SECONDS = 60.0
# Longer than a window of counts takes to be over and delivered.
COUNTS_INTERVAL = 1.5
COUNTS_SECONDS = 10.0

# What is sampled is the same each time, too; what is greedy is what the unsharded model says.
SAMPLED: Mapping[str, Any] = {"temperature": 0.7, "seed": 7}
GREEDY: Mapping[str, Any] = {"temperature": 0, "extra_body": {"ignore_eos": True}}


def stream_completion(
    url: str, model: str, prompt: str, tokens: int, show: Callable[[str], None], how: Mapping[str, Any] = SAMPLED
) -> int:
    """Ask for a streamed completion and `show` each piece as it arrives; the number of pieces."""
    # The demo's deployment asks for no key; the client insists on being given one.
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=ANSWER_SECONDS) as client:
        stream = client.completions.create(model=model, prompt=prompt, max_tokens=tokens, stream=True, **how)
        pieces = 0
        for chunk in stream:
            text = chunk.choices[0].text if chunk.choices else ""
            if text:
                pieces += 1
                show(text)
    return pieces


def condition(deployment: Mapping[str, Any], kind: str) -> dict[str, str] | None:
    """The condition of that type in a MoEDeployment's status, if it is there."""
    conditions = deployment.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), None)


def directory_report(kubectl: Kubectl, namespace: str, name: str, url: str) -> DirectoryReport:
    """What the deployment's directory tells the operator, asked for with the operator's key from its Secret."""
    secret = kubectl.get("secret", internal_key_name(name), namespace)
    if secret is None:
        raise LookupError(f"no Secret {internal_key_name(name)} in namespace {namespace}")
    key = base64.b64decode(secret["data"][INTERNAL_KEY]).decode()
    address = url.removesuffix("/v1") + INTERNAL_REPORT_PATH
    request = urllib.request.Request(
        address, headers={"Authorization": f"Bearer {key}", CONTRACT_HEADER: str(CONTRACT)}
    )
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        return DirectoryReport.model_validate(json.load(answer))


def settled_report(ask: Callable[[], DirectoryReport]) -> DirectoryReport:
    """A report whose counts stand still: attention replicas deliver theirs a moment after the answer."""
    deadline = time.monotonic() + COUNTS_SECONDS
    before, report = None, ask()
    while (not report.traffic.layer_rows or report != before) and time.monotonic() < deadline:
        time.sleep(COUNTS_INTERVAL)
        before, report = report, ask()
    return report
