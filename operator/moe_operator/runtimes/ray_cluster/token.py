"""With which token a deployment's Ray cluster is asked."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from moe_operator.api import MoEDeployment
from moe_operator.errors import StaleBasisError
from moe_operator.kube.errors import SecretAbsentError, SecretNotAllowedError
from moe_operator.kube.secrets import Secrets
from moe_operator.runtimes.credential import Check, Credential


@dataclass(slots=True)
class RayToken:
    """Of one deployment.

    Attributes:
        worked: with which its Ray cluster was reached last: the Secret may go before the object does. None if it needs
            none, and once the Secret was seen not to allow it.
    """

    secrets: Secrets
    worked: Credential | None = None

    async def credential(self, moe: MoEDeployment, fresh: bool = False) -> Credential | None:
        """The token, if the spec names one; SecretError says why it cannot be had or sent."""
        token = await self._token(moe, fresh)
        return None if token is None else Credential(token, self._same(moe, token))

    async def credential_to_remove(self, moe: MoEDeployment) -> Credential | None:
        """The token; where its Secret is gone, the one that worked last: a namespace that is deleted loses its Secrets
        first. A Secret that is there and does not allow it (any more) is obeyed, each time that it would be sent, and
        that also when it has gone since."""
        try:
            return await self.credential(moe, fresh=True)
        except SecretAbsentError:
            if self.worked is None:
                raise
            return self._remembered(moe, self.worked.token)

    def _remembered(self, moe: MoEDeployment, token: str) -> Credential:
        still = self._same(moe, token)

        async def check() -> None:
            with contextlib.suppress(SecretAbsentError):
                await still()

        return Credential(token, check)

    def _same(self, moe: MoEDeployment, token: str) -> Check:
        """Whether ``token`` is still the one of its Secret and may still be sent."""

        async def check() -> None:
            if await self._token(moe, fresh=True) != token:
                raise StaleBasisError(f"the token of {moe.key} is another one by now")

        return check

    async def _token(self, moe: MoEDeployment, fresh: bool) -> str | None:
        try:
            return await self.secrets.ray_token(moe, fresh)
        except SecretNotAllowedError:
            self.worked = None  # what was forbidden stays so when its Secret is gone
            raise
