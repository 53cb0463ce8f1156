"""Secrets: the user's, read only where their owner allows it; and the operator's own key to a directory.

Whoever may create a MoEDeployment may name any Secret of the namespace, and the operator would send its content to an
address of their choice. So a Secret is read only if its label allows the use, and that is asked by a request that
transfers metadata only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets

from moe_operator.api.deployment import MoEDeployment
from moe_operator.api.names import COMPONENT_INTERNAL_KEY, LABEL_USE, SecretUse
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.children import apply_child, child_metadata, find_child
from moe_operator.kube.errors import NotFoundError, SecretInvalidError, SecretMissingError, SecretNotLabelledError
from moe_operator.kube.resources import SECRETS

RAY_TOKEN_KEY = "token"
INTERNAL_KEY = "key"
MIN_API_KEY_LENGTH = 32
"""128 bits in hexadecimal: what travels to Serve is a plain SHA-256, which protects only keys that nobody can guess."""


async def read_ray_token(api: KubeApi, namespace: str, name: str) -> str:
    """The token of a Ray cluster, from the key ``token`` of the Secret.

    Raises:
        SecretError: no such Secret or key, not labelled for this use, or not a token.
    """
    data = await _read_labelled(api, namespace, name, SecretUse.RAY_TOKEN)
    if RAY_TOKEN_KEY not in data:
        raise SecretMissingError(
            f"Secret {name!r} has no key {RAY_TOKEN_KEY!r}: put Ray's authentication token there, its keys are "
            f"{sorted(data)}"
        )
    return _printable(data[RAY_TOKEN_KEY], name, RAY_TOKEN_KEY)


async def read_api_key_hashes(api: KubeApi, namespace: str, name: str) -> tuple[str, ...]:
    """SHA-256 hex digests of the API keys in the Secret, one per value, sorted.

    Raises:
        SecretError: no such Secret, not labelled for this use, empty, or a key too short to be sent as a hash.
    """
    data = await _read_labelled(api, namespace, name, SecretUse.API_KEYS)
    if not data:
        raise SecretMissingError(f"Secret {name!r} has no keys: give it one value per API key")
    return tuple(sorted(sha256(_api_key(value, name, key)) for key, value in data.items()))


async def ensure_internal_key(api: KubeApi, owner: MoEDeployment) -> str:
    """The key by which the operator asks the directory of ``owner``; made at random (256 bits) the first time.

    Raises:
        NameConflictError: a Secret of that name is somebody else's.
    """
    name = internal_key_name(owner.metadata.name)
    live = await find_child(api, owner, SECRETS, name)
    key = _existing_key(live) or secrets.token_urlsafe(32)
    manifest = {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.kind,
        "metadata": child_metadata(owner, name, COMPONENT_INTERNAL_KEY),
        "type": "Opaque",
        "data": {INTERNAL_KEY: base64.b64encode(key.encode()).decode()},
    }
    await apply_child(api, owner, SECRETS, manifest)
    return key


def internal_key_name(deployment: str) -> str:
    """Name of the Secret with the operator's key to the directory of this MoEDeployment."""
    return f"{deployment}-moe-internal"


def sha256(key: str) -> str:
    """Hex digest in which a key travels to Serve."""
    return hashlib.sha256(key.encode()).hexdigest()


async def _read_labelled(api: KubeApi, namespace: str, name: str, use: SecretUse) -> dict[str, bytes]:
    label = f"{LABEL_USE}={use}"
    try:
        metadata = await api.get_metadata(SECRETS, namespace, name)
        if metadata.get("labels", {}).get(LABEL_USE) != use:
            raise SecretNotLabelledError(
                f"Secret {name!r} is not labelled {label}, by which its owner allows this use: "
                f"kubectl -n {namespace} label secret {name} {label}"
            )
        live = await api.get(SECRETS, namespace, name)
    except NotFoundError as error:
        raise SecretMissingError(
            f"Secret {name!r} does not exist in namespace {namespace!r}: create it and label it {label}"
        ) from error
    return _decoded(live)


def _decoded(live: Json) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in live.get("data", {}).items()}


def _printable(value: bytes, name: str, key: str) -> str:
    """As text that fits an HTTP header; line ends around it, as files have them, are dropped."""
    try:
        text = value.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or " " in text:
        raise SecretInvalidError(
            f"key {key!r} of Secret {name!r} must be printable ASCII without spaces, and not empty"
        )
    return text


def _api_key(value: bytes, name: str, key: str) -> str:
    text = _printable(value, name, key)
    if len(text) < MIN_API_KEY_LENGTH:
        raise SecretInvalidError(
            f"key {key!r} of Secret {name!r} has {len(text)} characters, an API key needs at least "
            f"{MIN_API_KEY_LENGTH}: make one with `openssl rand -hex 32`"
        )
    return text


def _existing_key(live: Json | None) -> str | None:
    """The key in our Secret; None if there is none or somebody spoilt it."""
    encoded = (live or {}).get("data", {}).get(INTERNAL_KEY, "")
    try:
        key = base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return key if len(key) >= MIN_API_KEY_LENGTH else None
