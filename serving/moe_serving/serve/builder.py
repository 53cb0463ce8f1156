"""Application builders: what Serve calls with the arguments of an application. No torch here: it runs at each build.

Serve reads the arguments into the builder's annotated type, which must be the class itself: so this module does not
postpone its annotations (no ``from __future__ import annotations``). Each builder imports what it needs: a shard's need
not wait for the libraries of the api.
"""

from typing import Any

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import RequestRouterConfig

from moe_contract.applications import API, ATTENTION, DIRECTORY, EXPERTS, CoreArgs, ShardArgs
from moe_serving.serve.removal import SHUTDOWN_S

_MAX_ONGOING = 1024
"""Calls that a process takes at once."""
_MOST_ANSWERS = 16384
"""The same of an attention replica, a call for each answer: above what its queue takes (a request has up to 128
answers), or calls would wait in Serve, in the order in which they come."""
_API_SHUTDOWN_S = 600.0
"""How long answers may go on in an api that is to end because fewer are needed: no other one goes on with them."""
_HEALTH_PERIOD_S = 2.0
"""How soon Serve notices a dead process and starts another."""
_HEALTH_TIMEOUT_S = 10.0
"""For an answer to Serve's health check. Three in a row that do not come end a process: one that is frozen lives half a
minute longer, one whose loop a busy machine holds up for less is left alone."""
_ROUTER = "moe_serving.serve.router:PatientRouter"
"""Of all deployments: a frozen process must hold up neither those that call it nor those that it has called."""


def build_core(args: CoreArgs) -> Application:
    """The core application: api (ingress), attention, directory."""
    from moe_serving.serve.attention import Attention  # noqa: PLC0415 - see the module
    from moe_serving.serve.directory import Directory  # noqa: PLC0415

    directory = deployment(Directory, DIRECTORY).bind(args)
    attention = deployment(Attention, ATTENTION, max_ongoing_requests=_MOST_ANSWERS).bind(args, directory)
    return bind_api(args, attention, directory)


def bind_api(args: CoreArgs, attention: Application, directory: Application) -> Application:
    """The api, in front of these two."""
    from moe_serving.serve.api import Api  # noqa: PLC0415 - see the module

    api = deployment(serve.ingress()(Api), API, graceful_shutdown_timeout_s=_API_SHUTDOWN_S)
    return api.bind(args, attention, directory)


def build_shard(args: ShardArgs) -> Application:
    """The application of one expert shard, without a route."""
    from moe_serving.serve.experts import Experts  # noqa: PLC0415 - see the module

    return deployment(Experts, EXPERTS).bind(args)


def deployment(replica: type, name: str, **options: Any) -> Deployment:
    """One of ours, named ``name``, with replicas of class ``replica``; ``options`` are Serve's, over our own."""
    return serve.deployment(
        name=name,
        # Ray's CPUs are a count for its scheduler, and one per process does not fit small machines.
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=0.5,
        request_router_config=RequestRouterConfig(request_router_class=_ROUTER),  # type: ignore[arg-type]  # Ray's own mistake
        **{"max_ongoing_requests": _MAX_ONGOING, "graceful_shutdown_timeout_s": SHUTDOWN_S, **options},
    )(replica)
