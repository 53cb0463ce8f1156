"""Secrets: the user's, read only where their owner allows it; and the operator's own key to a directory.

Whoever may create a MoEDeployment may name any Secret of the namespace, and the operator would send its content to an
address of their choice. So a Secret is read only if its label allows the use, and that is asked by a request that
brings metadata only; and a token is sent only to the addresses that an annotation of its Secret names. API keys
leave as hashes, and the operator's own key opens nothing but the report of its deployment: these are bound to no
address.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from moe_contract.applications import key_digest, key_digests
from moe_operator.api.deployment import MoEDeployment
from moe_operator.api.names import (
    ANNOTATION_ADDRESSES,
    COMPONENT_INTERNAL_KEY,
    COMPONENT_RAY_TOKEN,
    LABEL_USE,
    SecretUse,
)
from moe_operator.endpoint import Endpoint, EndpointError, HttpUrl, parse_authority
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.children import apply_child, child_metadata, find_child
from moe_operator.kube.errors import (
    NotFoundError,
    SecretAbsentError,
    SecretError,
    SecretInvalidError,
    SecretMissingError,
    SecretNotBoundError,
    SecretNotLabelledError,
)
from moe_operator.kube.resources import SECRETS
from moe_operator.kube.secret_cache import Asker, Held, Key, SecretCache
from moe_operator.text import some

T = TypeVar("T")

RAY_TOKEN_KEY = "token"
INTERNAL_KEY = "key"
MIN_API_KEY_LENGTH = 32
"""128 bits in hexadecimal: what travels to Serve is a plain SHA-256, which protects only keys that nobody can guess."""


@dataclass(frozen=True, slots=True)
class KeyHashes:
    """SHA-256 hex digests: of the operator's key to the directory, and of the keys of clients (none: no key asked)."""

    internal: str
    api: tuple[str, ...] = ()


class Secrets:
    """What MoEDeployments need of Secrets, read as rarely as ``secret_cache`` says; ``fresh`` is what stands there now.

    All raise ``KubeError`` where the API server does not tell.
    """

    def __init__(self, api: KubeApi, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._cache = SecretCache(clock)

    async def ray_token(self, moe: MoEDeployment, fresh: bool = False) -> str | None:
        """The token of its Ray cluster, key ``token`` of the Secret that the spec names; None if it names none.

        Raises:
            SecretError: no such Secret or key, not labelled for this use, not bound to this address, or not a token.
        """
        ref = moe.ray_cluster.token_secret_ref
        if ref is None:
            return None
        endpoint = HttpUrl.parse(moe.ray_cluster.dashboard_url).endpoint
        held = await self._users(moe, ref.name, SecretUse.RAY_TOKEN, _token, fresh, endpoint)
        if not is_bound(held.addresses, endpoint):
            self._cache.unfit((moe.metadata.namespace, ref.name, SecretUse.RAY_TOKEN))
            raise SecretNotBoundError(_how_to_bind(moe.metadata.namespace, ref.name, endpoint, held.addresses))
        return held.content

    async def api_key_hashes(self, moe: MoEDeployment, fresh: bool = False) -> tuple[str, ...]:
        """SHA-256 hex digests of the API keys in the Secret that the spec names, one per value, sorted.

        Raises:
            SecretError: no such Secret, not labelled for this use, empty, or a key too short to be sent as a hash.
        """
        ref = moe.spec.serving.api_keys_secret_ref
        if ref is None:
            return ()
        return (await self._users(moe, ref.name, SecretUse.API_KEYS, _hashes, fresh)).content

    async def check_model_secret(self, moe: MoEDeployment) -> None:
        """Whether pods may be given the Secret by which they reach the model, and can use it. The operator keeps
        nothing of it.

        Raises:
            SecretError: no such Secret or key, or not labelled for this use; the message begins with the field.
        """
        named = moe.spec.model.source.secret
        if named is None:
            return
        try:
            there = (await self._users(moe, named.name, SecretUse.MODEL_SOURCE, _usable_keys, fresh=False)).content
        except SecretError as error:
            raise type(error)(f"{named.field}: {error}") from error
        missing = [key for key in named.keys if key not in there]
        if missing:
            self._cache.unfit((moe.metadata.namespace, named.name, SecretUse.MODEL_SOURCE))
            raise SecretMissingError(
                f"{named.field}: Secret {named.name!r} has no {some(missing, len(missing))} that could be used: give "
                "it, in printable ASCII without spaces"
            )

    async def internal_key(self, moe: MoEDeployment, fresh: bool = False) -> str:
        """The key by which the operator asks the directory; made at random (256 bits) the first time.

        Raises:
            NameConflictError: a Secret of that name is somebody else's.
        """
        return await self._own(moe, internal_key_name(moe.metadata.name), COMPONENT_INTERNAL_KEY, INTERNAL_KEY, fresh)

    async def cluster_token(self, moe: MoEDeployment, name: str, entry: str) -> str:
        """The token of a Ray cluster of its own, in ``entry`` of Secret ``name``; made as ``internal_key``.

        Raises:
            NameConflictError: a Secret of that name is somebody else's.
        """
        return await self._own(moe, name, COMPONENT_RAY_TOKEN, entry)

    async def _own(self, moe: MoEDeployment, name: str, component: str, entry: str, fresh: bool = False) -> str:
        """What is in a Secret of the operator's own, made at random (256 bits) the first time."""

        async def look(before: Held[str] | None) -> Held[str]:
            if before and await self._version(moe.metadata.namespace, name) == before.version:
                return before
            return await self._ensure(moe, name, component, entry)

        return (await self._cache.get(_own_key(moe, name), _asker(moe), look, fresh)).content

    async def key_hashes(self, moe: MoEDeployment, fresh: bool = False) -> KeyHashes:
        """Of all keys that its api knows; raises as ``internal_key`` and ``api_key_hashes``."""
        internal = await self.internal_key(moe, fresh)
        return KeyHashes(key_digest(internal), await self.api_key_hashes(moe, fresh))

    def token_refused(self, moe: MoEDeployment) -> None:
        """Ray did not take the token."""
        ref = moe.ray_cluster.token_secret_ref
        if ref is not None:
            self._cache.refused((moe.metadata.namespace, ref.name, SecretUse.RAY_TOKEN))

    def internal_key_refused(self, moe: MoEDeployment) -> None:
        """The directory's api did not take the operator's key."""
        self._cache.refused(_own_key(moe, internal_key_name(moe.metadata.name)))

    async def _users(
        self,
        moe: MoEDeployment,
        name: str,
        use: SecretUse,
        read: Callable[[str, dict[str, bytes]], T],
        fresh: bool,
        endpoint: Endpoint | None = None,
    ) -> Held[T]:
        namespace = moe.metadata.namespace

        async def look(before: Held[T] | None) -> Held[T]:
            try:
                metadata = await self._api.get_metadata(SECRETS, namespace, name)
                _check_label(metadata, use)
                if before and before.version == metadata["resourceVersion"]:
                    return before
                live = await self._api.get(SECRETS, namespace, name)
            except NotFoundError as error:
                raise SecretAbsentError(_how_to_make(namespace, name, use, endpoint)) from error
            metadata = live["metadata"]
            _check_label(metadata, use)
            addresses = metadata.get("annotations", {}).get(ANNOTATION_ADDRESSES, "")
            return Held(metadata["resourceVersion"], read(name, _decoded(live)), addresses)

        return await self._cache.get((namespace, name, use), _asker(moe), look, fresh)

    async def _version(self, namespace: str, name: str) -> str | None:
        try:
            return str((await self._api.get_metadata(SECRETS, namespace, name))["resourceVersion"])
        except NotFoundError:
            return None

    async def _ensure(self, owner: MoEDeployment, name: str, component: str, entry: str) -> Held[str]:
        live = await find_child(self._api, owner, SECRETS, name)
        key = _existing_key(live, entry) or secrets.token_urlsafe(32)
        applied = await apply_child(self._api, owner, SECRETS, build_own(owner, name, component, entry, key))
        return Held(applied["metadata"]["resourceVersion"], key)


def build_own(owner: MoEDeployment, name: str, component: str, entry: str, key: str) -> Json:
    """A Secret of the operator's own, with ``key`` in ``entry``."""
    return {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.kind,
        "metadata": child_metadata(owner, name, component),
        "type": "Opaque",
        "data": {entry: base64.b64encode(key.encode()).decode()},
    }


def _asker(moe: MoEDeployment) -> Asker:
    return Asker(moe.metadata.uid, moe.metadata.generation)


def _own_key(moe: MoEDeployment, name: str) -> Key:
    """With the uid: the key of a former object of the same name goes with that."""
    return moe.metadata.namespace, name, moe.metadata.uid


def is_bound(addresses: str, endpoint: Endpoint) -> bool:
    """Whether one of ``addresses``, separated by commas, is that of ``endpoint``; what is none allows nothing."""
    return any(_allows(entry.strip(), endpoint) for entry in addresses.split(","))


def _allows(entry: str, endpoint: Endpoint) -> bool:
    """``host:port`` allows http and https, a URL its own scheme; a path would look like a bound that there is not."""
    try:
        if "://" in entry:
            url = HttpUrl.parse(entry)
            return url.endpoint == endpoint and url.path in ("", "/")
        return parse_authority(entry) == (endpoint.host, endpoint.port)
    except EndpointError:
        return False


def _binding(endpoint: Endpoint) -> str:
    """An entry for ``endpoint``: with https as a URL, so that nobody has the token sent there in the clear."""
    return str(endpoint) if endpoint.scheme == "https" else endpoint.authority


def _how_to_bind(namespace: str, name: str, endpoint: Endpoint, addresses: str) -> str:
    # What is there is kept without being repeated: whoever reads the status may not know the Secret.
    path = ANNOTATION_ADDRESSES.replace(".", r"\.")
    there = f"$(kubectl -n {namespace} get secret {name} -o jsonpath='{{.metadata.annotations.{path}}}'),"
    value = f'"{ANNOTATION_ADDRESSES}={there}{_binding(endpoint)}"' if addresses else _assignment(endpoint)
    return (
        f"Secret {name!r} does not allow its token to be sent to {_binding(endpoint)}, which is "
        "spec.runtime.rayCluster.dashboardURL: if whoever may create a MoEDeployment in this namespace may have it "
        f"sent there, kubectl -n {namespace} annotate --overwrite secret {name} {value}"
    )


def _assignment(endpoint: Endpoint) -> str:
    return shlex.quote(f"{ANNOTATION_ADDRESSES}={_binding(endpoint)}")


def _how_to_make(namespace: str, name: str, use: SecretUse, endpoint: Endpoint | None) -> str:
    bind = f" and annotate it {_assignment(endpoint)}" if endpoint else ""
    return f"Secret {name!r} does not exist in namespace {namespace!r}: create it and label it {LABEL_USE}={use}{bind}"


def _check_label(metadata: Json, use: SecretUse) -> None:
    if metadata.get("labels", {}).get(LABEL_USE) != use:
        name, label = metadata["name"], f"{LABEL_USE}={use}"
        raise SecretNotLabelledError(
            f"Secret {name!r} is not labelled {label}, by which its owner allows this use: "
            f"kubectl -n {metadata['namespace']} label --overwrite secret {name} {label}"
        )


def _token(name: str, data: dict[str, bytes]) -> str:
    if RAY_TOKEN_KEY not in data:
        raise SecretMissingError(
            f"Secret {name!r} has no key {RAY_TOKEN_KEY!r}: put Ray's authentication token there, its keys are "
            f"{sorted(data)}"
        )
    return _printable(data[RAY_TOKEN_KEY], name, RAY_TOKEN_KEY)


def _usable_keys(name: str, data: dict[str, bytes]) -> frozenset[str]:
    """Names of those whose values fit an HTTP header; several objects may name one Secret, for different ones."""
    return frozenset(key for key, value in data.items() if _is_printable(value))


def _hashes(name: str, data: dict[str, bytes]) -> tuple[str, ...]:
    if not data:
        raise SecretMissingError(f"Secret {name!r} has no keys: give it one value per API key")
    return key_digests(_api_key(value, name, key) for key, value in data.items())


def internal_key_name(deployment: str) -> str:
    """Name of the Secret with the operator's key to the directory of this MoEDeployment."""
    return f"{deployment}-moe-internal"


def _decoded(live: Json) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in live.get("data", {}).items()}


def _printable(value: bytes, name: str, key: str) -> str:
    """As text that fits an HTTP header; line ends around it, as files have them, are dropped."""
    if not _is_printable(value):
        raise SecretInvalidError(
            f"key {key!r} of Secret {name!r} must be printable ASCII without spaces, and not empty"
        )
    return value.decode("ascii").strip()


def _is_printable(value: bytes) -> bool:
    try:
        text = value.decode("ascii").strip()
    except UnicodeDecodeError:
        return False
    return bool(text) and text.isprintable() and " " not in text


def _api_key(value: bytes, name: str, key: str) -> str:
    text = _printable(value, name, key)
    if len(text) < MIN_API_KEY_LENGTH:
        raise SecretInvalidError(
            f"key {key!r} of Secret {name!r} has {len(text)} characters, an API key needs at least "
            f"{MIN_API_KEY_LENGTH}: make one with `openssl rand -hex 32`"
        )
    return text


def _existing_key(live: Json | None, entry: str) -> str | None:
    """The key in our Secret; None if there is none or somebody spoilt it."""
    encoded = (live or {}).get("data", {}).get(entry, "")
    try:
        key = base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return key if len(key) >= MIN_API_KEY_LENGTH else None
