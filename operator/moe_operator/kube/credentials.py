"""Access to the API server as a kubeconfig or the pod gives it, loaded anew before it ends and when it is refused.

Tokens of exec plugins, OIDC, token files, projected ServiceAccount tokens and client certificates all end; the library
that reads them does so once. Called by ``connection``.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from moe_operator.kube.errors import CredentialsError

LOAD_SECONDS = 20.0
"""Bound on one load: an exec plugin may ask a server of its own."""
REREAD_SECONDS = 60.0
"""Files are read again so often; client-go does the same."""
RETRY_SECONDS = 5.0
"""Between two loads, whoever asks for them: a server that refuses what it is given must not cause a hot loop."""
LIFE_PART = 0.8
"""After this part of its life a token with a known end is asked for anew."""

_BEARER = "BearerToken"

_LOAD_ERRORS = (
    config.ConfigException,
    aiohttp.ClientError,
    yaml.YAMLError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What the library answers bad files, plugins and servers with."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """What one load gave.

    Attributes:
        authorization: value of the header; None with a client certificate, or for nobody.
        peer: digest of all that needs other connections: address, certificates, proxy.
    """

    configuration: Configuration
    authorization: str | None
    peer: str


_Loaded = tuple[Access, float | None]
"""And seconds after which to load again; None: only when it is refused."""


@functools.cache
def _folder() -> str:
    """Where the library writes certificates and keys that stand in a kubeconfig. One for the process: it remembers
    what it wrote where."""
    path = tempfile.mkdtemp(prefix="moe-operator-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def forget_files() -> None:
    """Take private keys off the disk, where the process ends without Python's own end."""
    if _folder.cache_info().currsize:
        shutil.rmtree(_folder(), ignore_errors=True)


class Credentials:
    """The newest access, and when to load another.

    Args:
        kubeconfig: None for ``$KUBECONFIG``, else ~/.kube/config, else the pod's ServiceAccount.
        clock: monotonic, in seconds.
    """

    def __init__(self, kubeconfig: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._kubeconfig = kubeconfig
        self._clock = clock
        self._access: Access | None = None
        self._loaded = float("-inf")
        self._again: float | None = None
        self._failure: str | None = None
        self._loading: asyncio.Task[_Loaded] | None = None
        self._oidc: tuple[str, Any] | None = None

    async def current(self) -> Access:
        """What to use now; what is due to be loaded anew is meanwhile.

        Raises:
            CredentialsError: there was none before, and there is none now.
        """
        if self._access is None:
            return await self._load_once()
        if self._again is not None and self._clock() - self._loaded >= self._again:
            self._begin()
        return self._access

    async def renewed(self, refused: Access) -> Access:
        """What to use after the API server said 401 to ``refused``; the same again where there is nothing newer.

        Raises:
            CredentialsError: it could not be loaded anew.
        """
        if self._access is refused and self._clock() - self._loaded >= RETRY_SECONDS:
            return await self._load_once()
        if self._access is refused and self._failure:
            raise CredentialsError(self._failure)
        return self._access or refused

    async def close(self) -> None:
        """End a load that is under way."""
        if self._loading:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    async def _load_once(self) -> Access:
        """One load at a time, which goes on although whoever waits for it gives up."""
        access, _ = await asyncio.shield(self._begin())
        return access

    def _begin(self) -> asyncio.Task[_Loaded]:
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name="credentials")
            self._loading.add_done_callback(self._end)
        return self._loading

    def _end(self, task: asyncio.Task[_Loaded]) -> None:
        self._loading, self._loaded = None, self._clock()
        if task.cancelled():
            return
        error = task.exception()
        self._failure = str(error) if error else None
        if error is None:
            self._access, self._again = task.result()
        elif self._access is not None:
            logger.warning("credentials were not renewed: %s", error)
            # Those in hand may do; they are tried until they are refused.
            self._again = RETRY_SECONDS

    async def _load(self) -> _Loaded:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                return await (self._from_pod() if self._in_pod() else self._from_kubeconfig())
        except TimeoutError as error:
            raise CredentialsError(f"no credentials for Kubernetes within {LOAD_SECONDS:.0f} s") from error
        except _LOAD_ERRORS as error:
            raise CredentialsError(
                f"no access to Kubernetes: {error}; set KUBECONFIG, or run in a pod with a ServiceAccount"
            ) from error

    def _in_pod(self) -> bool:
        return self._kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ

    async def _from_pod(self) -> _Loaded:
        settings = Configuration()
        config.load_incluster_config(  # type: ignore[no-untyped-call] # untyped in kubernetes
            client_configuration=settings, try_refresh_token=False
        )
        return _access(settings), REREAD_SECONDS

    async def _from_kubeconfig(self) -> _Loaded:
        settings = Configuration()
        written = self._written()
        if self._oidc and self._oidc[0] == written:
            # It holds a refresh token that may be newer than the file's.
            loader = self._oidc[1]
            await loader.load_and_set(settings)
        else:
            loader = await config.load_kube_config(  # type: ignore[no-untyped-call] # untyped in kubernetes
                config_file=str(self._kubeconfig) if self._kubeconfig else None,
                client_configuration=settings,
                persist_config=False,
                temp_file_path=_folder(),
            )
        self._oidc = (written, loader) if loader.provider == "oidc" else None
        user = loader._user or {}
        if "exec" not in user:
            return _access(settings), None if loader.provider == "gcp" else REREAD_SECONDS
        if _BEARER not in settings.api_key and not settings.cert_file:
            raise CredentialsError(
                f"the exec plugin {user['exec']['command']!r} of the kubeconfig gave no credentials: see above why"
            )
        return _access(settings), _life(getattr(loader, "exec_plugin_expiry", None))

    def _written(self) -> str:
        """Digest of the kubeconfig's files."""
        paths = str(self._kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube/config").split(os.pathsep)
        return _digest(*(Path(path).expanduser() for path in paths if path))


def _life(expiry: Any) -> float | None:
    """Seconds after which to ask for another, of an exec plugin's token that ends at ``expiry`` (datetime)."""
    if expiry is None:
        return None
    return max(2 * RETRY_SECONDS, LIFE_PART * float(expiry.timestamp() - time.time()))


def _access(settings: Configuration) -> Access:
    told = (settings.host, settings.proxy, settings.verify_ssl, settings.tls_server_name)
    files = (settings.ssl_ca_cert, settings.cert_file, settings.key_file)
    peer = _digest(*(Path(file) for file in files if file), text=repr(told))
    return Access(settings, settings.api_key.get(_BEARER), peer)


def _digest(*files: Path, text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for file in files:
        content = file.read_bytes() if file.exists() else b""
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()
