"""Secrets of the user are read only where their label allows it; the operator's own key is made and mended."""

import base64
from collections.abc import Sequence

import pytest

from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment, Reason
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import SecretError
from moe_operator.kube.resources import SECRETS
from moe_operator.kube.secrets import (
    ensure_internal_key,
    internal_key_name,
    read_api_key_hashes,
    read_ray_token,
    sha256,
)

pytestmark = pytest.mark.e2e

KEY = "0123456789abcdef" * 2


def make_secret(kube: Kubectl, namespace: str, use: str | None, data: Sequence[str]) -> None:
    kube.run("create", "secret", "generic", "given", "-n", namespace, *(f"--from-literal={pair}" for pair in data))
    if use:
        kube.run("label", "secret", "given", "-n", namespace, f"moe-operator.io/use={use}")


async def test_a_labelled_token_is_read_without_the_line_end_of_its_file(
    client: KubeClient, kube: Kubectl, namespace: str
) -> None:
    make_secret(kube, namespace, "ray-token", ["token=abc\n"])
    assert await read_ray_token(client, namespace, "given") == "abc"


async def test_api_keys_are_read_as_sorted_hashes(client: KubeClient, kube: Kubectl, namespace: str) -> None:
    keys = [KEY, KEY[::-1]]
    make_secret(kube, namespace, "api-keys", [f"team-{i}={key}" for i, key in enumerate(keys)])
    assert await read_api_key_hashes(client, namespace, "given") == tuple(sorted(map(sha256, keys)))


REFUSED = [
    # label, data, reason, what the message says
    (None, ["token=abc"], Reason.SECRET_NOT_LABELLED, "label secret given moe-operator.io/use=ray-token"),
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
        await read_ray_token(client, namespace, "given")
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
        await read_ray_token(client, namespace, "given")


async def test_a_missing_secret_says_how_it_must_look(client: KubeClient, namespace: str) -> None:
    with pytest.raises(SecretError, match=r"'given' does not exist.*label it moe-operator.io/use=api-keys") as caught:
        await read_api_key_hashes(client, namespace, "given")
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
        await read_api_key_hashes(client, namespace, "given")


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
