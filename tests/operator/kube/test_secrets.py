"""Secrets of the user are read only where their label allows it, and a token is for the addresses that they name; the
operator's own key is made and mended."""

import base64
import os
import subprocess
from collections.abc import Sequence

import pytest

from moe_contract.applications import key_digests
from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment, Reason
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import SecretError, SecretNotBoundError
from moe_operator.kube.resources import SECRETS
from moe_operator.kube.secrets import Secrets, internal_key_name

pytestmark = pytest.mark.e2e

KEY = "0123456789abcdef" * 2
ADDRESS = "127.0.0.1:1"


def make_secret(
    kube: Kubectl, namespace: str, use: str | None, data: Sequence[str], addresses: str | None = ADDRESS
) -> None:
    kube.run("create", "secret", "generic", "given", "-n", namespace, *(f"--from-literal={pair}" for pair in data))
    if use:
        kube.run("label", "secret", "given", "-n", namespace, f"moe-operator.io/use={use}")
    if addresses is not None:
        annotation = f"moe-operator.io/allowed-addresses={addresses}"
        kube.run("annotate", "secret", "given", "-n", namespace, annotation)


def naming(namespace: str, dashboard_url: str = f"http://{ADDRESS}") -> MoEDeployment:
    """A MoEDeployment that names the Secret ``given`` for its token and for its API keys."""
    ray = {"dashboardURL": dashboard_url, "serveURL": "http://127.0.0.1:2", "tokenSecretRef": {"name": "given"}}
    return MoEDeployment.parse(
        {
            "apiVersion": "moe-operator.io/v1alpha1",
            "kind": "MoEDeployment",
            "metadata": {"name": "tiny", "namespace": namespace, "uid": "u-1", "generation": 1},
            "spec": {
                "model": {"source": {"path": "models/tiny"}},
                "serving": {"apiKeysSecretRef": {"name": "given"}},
                "runtime": {"rayCluster": ray},
            },
        }
    )


async def read_ray_token(client: KubeClient, namespace: str) -> str | None:
    return await Secrets(client).ray_token(naming(namespace))


async def read_api_key_hashes(client: KubeClient, namespace: str) -> tuple[str, ...]:
    return await Secrets(client).api_key_hashes(naming(namespace))


async def ensure_internal_key(client: KubeClient, owner: MoEDeployment) -> str:
    return await Secrets(client).internal_key(owner)


def paste(kube: Kubectl, line: str) -> None:
    """Run it as a user does."""
    path = f"{kube.binary.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(kube.kubeconfig), "PATH": path}
    subprocess.run(["sh", "-ec", line], env=environment, check=True, timeout=30)


async def test_a_labelled_token_is_read_without_the_line_end_of_its_file(
    client: KubeClient, kube: Kubectl, namespace: str
) -> None:
    make_secret(kube, namespace, "ray-token", ["token=abc\n"])
    assert await read_ray_token(client, namespace) == "abc"


async def test_api_keys_are_read_as_sorted_hashes(client: KubeClient, kube: Kubectl, namespace: str) -> None:
    keys = [KEY, KEY[::-1]]
    make_secret(kube, namespace, "api-keys", [f"team-{i}={key}" for i, key in enumerate(keys)])
    assert await read_api_key_hashes(client, namespace) == key_digests(keys)


REFUSED = [
    # label, data, reason, what the message says
    (None, ["token=abc"], Reason.SECRET_NOT_LABELLED, "label --overwrite secret given moe-operator.io/use=ray-token"),
    ("api-keys", ["token=abc"], Reason.SECRET_NOT_LABELLED, "is not labelled moe-operator.io/use=ray-token"),
    ("ray-token", ["other=abc"], Reason.SECRET_MISSING, r"no key 'token'.*\['other'\]"),
    ("ray-token", ["token= \n"], Reason.SECRET_INVALID, "key 'token'.*printable ASCII"),
    ("ray-token", ["token=a b"], Reason.SECRET_INVALID, "without spaces"),
    ("ray-token", ["token=schlüssel"], Reason.SECRET_INVALID, "printable ASCII"),
]


@pytest.mark.parametrize(("use", "data", "reason", "says"), REFUSED)
async def test_a_token_is_refused(
    client: KubeClient, kube: Kubectl, namespace: str, use: str | None, data: list[str], reason: Reason, says: str
) -> None:
    make_secret(kube, namespace, use, data)
    with pytest.raises(SecretError, match=says) as caught:
        await read_ray_token(client, namespace)
    assert caught.value.reason is reason


async def test_the_content_of_a_secret_without_label_is_never_asked_for(
    client: KubeClient, kube: Kubectl, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_secret(kube, namespace, None, ["token=abc"])

    async def forbidden(*_: object) -> None:
        pytest.fail("the Secret's content was asked for")

    monkeypatch.setattr(client, "get", forbidden)
    metadata = await client.get_metadata(SECRETS, namespace, "given")
    assert "data" not in metadata
    with pytest.raises(SecretError):
        await read_ray_token(client, namespace)


async def test_a_missing_secret_says_how_it_must_look(client: KubeClient, namespace: str) -> None:
    with pytest.raises(SecretError, match=r"'given' does not exist.*label it moe-operator.io/use=api-keys") as caught:
        await read_api_key_hashes(client, namespace)
    assert caught.value.reason is Reason.SECRET_MISSING


@pytest.mark.parametrize(
    ("data", "says"),
    [([], "no keys"), (["a=" + KEY, "b=short"], "key 'b' of Secret 'given' has 5 characters, .* at least 32")],
)
async def test_api_keys_are_refused(
    client: KubeClient, kube: Kubectl, namespace: str, data: list[str], says: str
) -> None:
    make_secret(kube, namespace, "api-keys", data)
    with pytest.raises(SecretError, match=says):
        await read_api_key_hashes(client, namespace)


async def test_the_internal_key_is_made_once_and_kept(
    client: KubeClient, owner: MoEDeployment, other_owner: MoEDeployment
) -> None:
    key = await ensure_internal_key(client, owner)
    assert len(base64.urlsafe_b64decode(key + "=")) == 32
    assert await ensure_internal_key(client, owner) == key
    assert await ensure_internal_key(client, other_owner) != key


@pytest.mark.parametrize("spoilt", ["null", '{"key": null}', '{"key": "c2hvcnQ="}', '{"key": "w7w="}'])
async def test_a_spoilt_internal_key_is_replaced(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str, spoilt: str
) -> None:
    key = await ensure_internal_key(client, owner)
    name = internal_key_name("tiny")
    kube.run("patch", "secret", name, "-n", namespace, "--type=merge", f'--patch={{"data": {spoilt}}}')
    mended = await ensure_internal_key(client, owner)
    assert mended != key
    assert await ensure_internal_key(client, owner) == mended


async def test_a_key_is_made_anew_when_its_secret_was_deleted(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    secrets = Secrets(client)
    key = await secrets.internal_key(owner)
    kube.run("delete", "secret", internal_key_name("tiny"), "-n", namespace)
    assert await secrets.internal_key(owner) == key
    changed = owner.model_copy(update={"metadata": owner.metadata.model_copy(update={"generation": 2})})
    assert await secrets.internal_key(changed) != key


@pytest.mark.parametrize("before", [None, "10.0.0.1:8265", "10.0.0.1:8265,https://ray.example.org"])
@pytest.mark.parametrize("dashboard", ["http://127.0.0.1:8265", "https://[fd00::1]/ray"])
async def test_the_command_in_the_message_binds_a_token_and_keeps_what_is_bound(
    client: KubeClient, kube: Kubectl, namespace: str, before: str | None, dashboard: str
) -> None:
    make_secret(kube, namespace, "ray-token", ["token=abc"], before)
    moe = naming(namespace, dashboard)
    with pytest.raises(SecretNotBoundError) as caught:
        await Secrets(client).ray_token(moe)
    assert caught.value.reason is Reason.SECRET_NOT_BOUND
    said = str(caught.value)
    assert "ray.example.org" not in said
    paste(kube, said[said.index("kubectl") :])
    assert await Secrets(client).ray_token(moe) == "abc"
    found = kube.get("secret", "given", namespace)
    assert found is not None
    bound = found["metadata"]["annotations"]["moe-operator.io/allowed-addresses"]
    assert bound.split(",")[:-1] == (before.split(",") if before else [])
