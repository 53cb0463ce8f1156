"""The two calls of Serve's REST API and one of Ray's state API, and what their answers mean. Called by ``cluster``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moe_contract.serve.state import MOST_BYTES, ServeState, StateTooLargeError, read_state
from moe_operator.offload.errors import OffloadError
from moe_operator.runtimes.credential import Credential
from moe_operator.runtimes.errors import (
    DeployRefusedError,
    NotARayDashboardError,
    RayAnswerRefusedError,
    RayAuthError,
    RayError,
    RayUnreachableError,
    ServeMissingError,
)
from moe_operator.runtimes.http.client import ASIDE_CURE, Answer, HttpClient
from moe_operator.runtimes.port import Node
from moe_operator.runtimes.ray_cluster.nodes import MOST_NODES_BYTES, NODES_PATH, read_nodes

APPLICATIONS_PATH = "/api/serve/applications/"
READ_SECONDS = 6.0
WRITE_SECONDS = 30.0
"""The first PUT that a Ray cluster ever sees starts Serve; one that takes longer goes on there and is repeated here."""
_QUOTED = 500
"""Characters of a foreign answer that a message repeats."""


@dataclass(slots=True)
class ServeClient:
    """Serve's REST API at one dashboard address, with one token or none.

    What a refusal says is repeated only where the same socket address has answered a read as Serve before: the name may
    lead elsewhere by now, to a server that was never meant, and whose words are nobody's business.
    """

    http: HttpClient
    dashboard_url: str
    credential: Credential | None
    _known_as_serve: tuple[Any, ...] | None = field(default=None, init=False)

    async def read(self) -> ServeState:
        """What Serve runs; RayError says why it cannot be told."""
        try:
            answer, state = await self.http.read(
                self.dashboard_url,
                APPLICATIONS_PATH,
                read_state,
                most=MOST_BYTES,
                seconds=READ_SECONDS,
                credential=self.credential,
            )
        except RayUnreachableError as error:
            raise self._unreachable(str(error)) from error
        except StateTooLargeError as error:
            raise RayAnswerRefusedError(f"what Serve at {self.dashboard_url} answers {error}: {ASIDE_CURE}") from error
        except ValueError as error:
            raise self._not_a_dashboard(f"its answer is not Serve's ({error})") from error
        if state is None:
            raise self._error(answer)
        self._known_as_serve = answer.peer
        return state

    async def nodes(self) -> tuple[Node, ...] | None:
        """What Ray's nodes have; None where that cannot be told, which stands in nobody's way."""
        try:
            _, nodes = await self.http.read(
                self.dashboard_url,
                NODES_PATH,
                read_nodes,
                most=MOST_NODES_BYTES,
                seconds=READ_SECONDS,
                credential=self.credential,
            )
        except (RayError, OffloadError):
            return None
        return nodes

    async def write(self, body: str) -> None:
        """Replace all declarative applications by those of ``body``, which is JSON; RayError says why not."""
        try:
            answer = await self.http.call(
                "PUT",
                self.dashboard_url,
                APPLICATIONS_PATH,
                seconds=WRITE_SECONDS,
                credential=self.credential,
                body=body.encode(),
            )
        except RayUnreachableError as error:
            raise self._unreachable(str(error)) from error
        if answer.status == 400:
            raise DeployRefusedError(f"Serve at {self.dashboard_url} refused the configuration: {self._said(answer)}")
        if answer.status != 200:
            raise self._error(answer)

    def _said(self, answer: Answer) -> str:
        if answer.peer is None or answer.peer != self._known_as_serve:
            return "its words are not repeated, since it was not the server that had told what Serve runs"
        return answer.text if len(answer.text) <= _QUOTED else answer.text[:_QUOTED] + " …"

    def _error(self, answer: Answer) -> RayError:
        if answer.status == 401:
            return RayAuthError(
                f"{self.dashboard_url} asks for a token and got none: put Ray's token into key 'token' of a Secret "
                "labelled moe-operator.io/use=ray-token and name it in spec.runtime.rayCluster.tokenSecretRef"
            )
        if answer.status == 403:
            return RayAuthError(
                f"{self.dashboard_url} refused the token of spec.runtime.rayCluster.tokenSecretRef: put the one that "
                "this Ray cluster was started with (`ray get-auth-token`) into that Secret"
            )
        if answer.status == 501:
            return ServeMissingError(
                f"the Ray cluster at {self.dashboard_url} has no Serve: install 'ray[serve]' and moe-operator[serving] "
                "on all its nodes"
            )
        if 300 <= answer.status < 400:
            return self._not_a_dashboard("it redirects, which is not followed: write the address it redirects to")
        if answer.status in (500, 502, 503, 504):
            return self._unreachable(f"Ray there is in trouble (HTTP {answer.status})")
        return self._not_a_dashboard(f"it answers HTTP {answer.status} where Serve's applications should be")

    def _unreachable(self, found: str) -> RayUnreachableError:
        return RayUnreachableError(
            f"spec.runtime.rayCluster.dashboardURL is {self.dashboard_url}, but {found}; see that Ray runs there and "
            "that the operator can reach it: it is asked again by itself"
        )

    def _not_a_dashboard(self, found: str) -> NotARayDashboardError:
        return NotARayDashboardError(
            f"spec.runtime.rayCluster.dashboardURL is {self.dashboard_url}, but no Ray dashboard answers there: "
            f"{found}; it is usually port 8265 of Ray's head node"
        )
