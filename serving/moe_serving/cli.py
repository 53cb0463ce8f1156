"""``moe-serve``: serve a Mixture-of-Experts model on this machine, without Kubernetes."""

from __future__ import annotations

import argparse
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from moe_contract.applications import (
    ORIGIN,
    QUEUE_REQUESTS,
    QUEUE_TOKENS,
    RECORD_BYTES,
    RECORD_ROWS,
    ModelArgs,
    RecordConfig,
)
from moe_contract.base import in_words
from moe_contract.model import ModelFacts
from moe_contract.serve.merge import Change
from moe_contract.sizes import MOST_APIS
from moe_serving.adaptive import command as calibrate
from moe_serving.adaptive.curve import LossIncrease
from moe_serving.checkpoint import ModelError, inspect_model
from moe_serving.fetching.fetch import local_model
from moe_serving.standalone import adaptive, fp8
from moe_serving.standalone.desired import Wanted, desired_applications
from moe_serving.standalone.errors import StandaloneError, UsageError
from moe_serving.standalone.ray_node import own_ray, running_ray
from moe_serving.standalone.serve_rest import ServeRest
from moe_serving.standalone.wait import wait_until_ready


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; ``calibrate`` as the first argument is ``adaptive.command``.

    Returns:
        0 after a clean end, 1 when something failed, 2 when the arguments or the model cannot work.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == [calibrate.NAME]:
        return calibrate.main(given[1:])
    arguments = _parser().parse_args(given)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        wanted = _wanted(arguments)
        facts = _inspect(arguments)
        loss = adaptive.checked(wanted, facts)
        fp8.check(wanted)
        desired_applications(wanted, facts, gpus=1)  # what cannot work is told before anything starts
        _serve(arguments, wanted, facts, loss)
    except StandaloneError as error:
        print(f"moe-serve: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


def _serve(arguments: argparse.Namespace, wanted: Wanted, facts: ModelFacts, loss: LossIncrease | None) -> None:
    tell = _teller()
    tell(
        f"{facts.architecture}: {facts.layers} MoE layers of {facts.experts} experts, top {facts.top_k}, {facts.dtype}"
    )
    if wanted.routing is not None:
        tell(f"adaptive routing: {wanted.routing.pairs_saved:g}% of the pairs saved, loss on held-out text {loss}")
    if arguments.ray is None:
        _check_port(arguments.host, arguments.port)
        tell("starting Ray")
    with own_ray() if arguments.ray is None else running_ray(arguments.ray) as node:
        # Ray has just put its own in place, which would skip our cleaning up.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        tell(f"deploying {wanted.shards} shards; logs are in {node.logs}")
        applications = desired_applications(wanted, facts, node.gpus)
        names = [application["name"] for application in applications]
        rest = ServeRest(node.dashboard_url, node.token)
        if wanted.application in rest.state().applications:
            raise _taken(wanted, wanted.application)
        try:
            address = {"host": arguments.host, "port": arguments.port}
            _deploy(rest, wanted, Change(wanted.application, applications, address, "HeadOnly"))
            host, port = rest.http_address()
            host = "127.0.0.1" if host == "0.0.0.0" else host
            url = f"http://{host}:{port}{wanted.route_prefix}".rstrip("/")
            wait_until_ready(rest, names, url, wanted.internal_key, tell)
            tell(f"ready: {url}/v1\n{_hints(url, wanted)}")
            node.stay()
        finally:
            tell("stopping")
            if arguments.ray is not None:
                rest.apply(Change(wanted.application, ()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moe-serve",
        description="Serve a Mixture-of-Experts model, its experts spread over shards, on this machine.",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH",
        help="directory of the checkpoint, hf://organisation/model@commit, or https://…#sha256=<of SHA256SUMS there>",
    )
    parser.add_argument("--shards", type=_at_least_one, default=2, metavar="N", help="expert shards (default 2)")
    parser.add_argument(
        "--copies", type=_at_least_one, default=1, metavar="M", help="copies of every expert (default 1)"
    )
    parser.add_argument(
        "--api-replicas", type=_api_replicas, default=2, metavar="N", help="processes that answer HTTP (default 2)"
    )
    parser.add_argument("--attention-replicas", type=_at_least_one, default=1, metavar="N", help="default 1")
    parser.add_argument("--served-name", metavar="NAME", help="of the model in the API (default: its directory's name)")
    parser.add_argument(
        "--max-context", type=int, metavar="TOKENS", help="prompt and answer together (default: the model's)"
    )
    parser.add_argument(
        "--generation-config",
        choices=["model", "none"],
        default="model",
        help="whether the model's generation_config.json says how requests are sampled that do not (default model)",
    )
    parser.add_argument(
        "--queue-requests",
        type=_at_least_one,
        default=QUEUE_REQUESTS,
        metavar="N",
        help=f"that wait for a place in an attention replica; more are answered with 429 (default {QUEUE_REQUESTS})",
    )
    parser.add_argument(
        "--queue-tokens",
        type=_at_least_two,
        default=QUEUE_TOKENS,
        metavar="N",
        help=f"of their prompts and answers together, and of any request (default {QUEUE_TOKENS})",
    )
    parser.add_argument(
        "--record-traffic",
        metavar="FOLDER",
        help="write the experts of sampled tokens to files there, for moe-placement; whoever reads them may guess at "
        "text (default: nothing is written)",
    )
    parser.add_argument(
        "--record-rows",
        type=int,
        default=RECORD_ROWS,
        metavar="N",
        help=f"of each attention replica and minute (default {RECORD_ROWS})",
    )
    parser.add_argument(
        "--record-bytes",
        type=int,
        default=RECORD_BYTES,
        metavar="N",
        help=f"of all these files; the oldest are removed (default {RECORD_BYTES})",
    )
    adaptive.add_options(parser)
    fp8.add_options(parser)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--network", choices=["auto", "unix", "tcp"], default="auto", help="between attention and shards (default auto)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="check every answer of a shard bit for bit against the checkpoint; slow"
    )
    parser.add_argument("--host", default="127.0.0.1", help="where HTTP is answered (default 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8000, help="default 8000")
    parser.add_argument("--route-prefix", type=_route, default="/", metavar="PATH", help="before /v1 (default /)")
    parser.add_argument(
        "--allowed-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="of web pages whose browsers may ask, such as http://localhost:3000; may be repeated (default none)",
    )
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="keys that clients may use, one a line")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="a Ray on this machine that runs already, such as 127.0.0.1:6379"
    )
    return parser


def _at_least_one(text: str) -> int:
    return _at_least(1, text)


def _at_least_two(text: str) -> int:
    """A prompt and an answer of one token."""
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _api_replicas(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_APIS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of api processes, 1 to {MOST_APIS}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to 65535")
    return int(text)


def _route(text: str) -> str:
    if not re.fullmatch(r"/|(/[A-Za-z0-9._~-]+)+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a path such as /tiny")
    return text


def _origin(text: str) -> str:
    if not re.fullmatch(ORIGIN, text) or re.fullmatch(r"http://.*:80|https://.*:443", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no origin as browsers send it: scheme, host in lower case, a port unless it is the scheme's "
            "own, no path and no *; such as http://localhost:3000"
        )
    return text


def _wanted(arguments: argparse.Namespace) -> Wanted:
    if arguments.max_context is not None and arguments.max_context < 2:
        raise UsageError(
            f"--max-context {arguments.max_context}: must be at least 2, a prompt and an answer of one token"
        )
    path, name = _model(arguments.model)
    return Wanted(
        model=ModelArgs(
            path=path,
            dtype=arguments.dtype,
            device=arguments.device,
            network=arguments.network,
            verify=arguments.verify,
            weights=fp8.weights(arguments),
        ),
        served_name=arguments.served_name or name,
        route_prefix=arguments.route_prefix,
        shards=arguments.shards,
        copies=arguments.copies,
        api_replicas=arguments.api_replicas,
        attention_replicas=arguments.attention_replicas,
        max_context=arguments.max_context,
        generation_defaults="Model" if arguments.generation_config == "model" else "None",
        allowed_origins=tuple(arguments.allowed_origin),
        queue_requests=arguments.queue_requests,
        queue_tokens=arguments.queue_tokens,
        record=_record(arguments),
        routing=adaptive.asked(arguments),
        wire=fp8.wire(arguments),
        api_keys=_read_keys(arguments.api_key_file),
        internal_key=secrets.token_urlsafe(32),
    )


def _record(arguments: argparse.Namespace) -> RecordConfig | None:
    if arguments.record_traffic is None:
        return None
    try:
        return RecordConfig(
            path=str(Path(arguments.record_traffic).resolve()) if arguments.record_traffic else "",
            sample_rows=arguments.record_rows,
            max_bytes=arguments.record_bytes,
        )
    except ValidationError as error:
        raise UsageError(f"--record-traffic {arguments.record_traffic}: {in_words(error)}") from error


def _read_keys(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(f"--api-key-file {path}: {error.strerror}") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    for number, line in enumerate(lines, start=1):
        if not (line.strip().isascii() and line.strip().isprintable()):
            raise UsageError(
                f"--api-key-file {path}: the key in line {number} has a character that clients cannot send in a "
                "header; use letters, digits and signs of ASCII"
            )
    if not keys:
        raise UsageError(f"--api-key-file {path}: has no key in it; write one a line")
    return keys


def _model(named: str) -> tuple[str, str]:
    """Where the model is for processes of any folder, and what it is called where nobody says otherwise."""
    if "://" in named:
        return named, Path(named.partition("#")[0]).name.partition("@")[0]
    path = Path(named).resolve()
    return str(path), path.name


def _inspect(arguments: argparse.Namespace) -> ModelFacts:
    try:
        return inspect_model(local_model(arguments.model), arguments.dtype, fp8.weights(arguments))
    except ModelError as error:
        raise UsageError(f"--model {arguments.model}: {error.reason}: {error}") from error


def _check_port(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: cannot listen there: {error}; choose another port") from error


def _deploy(rest: ServeRest, wanted: Wanted, change: Change) -> None:
    conflict = rest.apply(change)
    if conflict is not None:
        raise _taken(wanted, conflict.owner)


def _taken(wanted: Wanted, application: str) -> UsageError:
    """On a Ray that others use too."""
    return UsageError(f"--route-prefix {wanted.route_prefix}: application {application} is there; choose another")


def _teller() -> Callable[[str], None]:
    started = time.monotonic()

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)

    return tell


def _hints(url: str, wanted: Wanted) -> str:
    """Lines to paste."""
    header = " -H 'Authorization: Bearer <one of your keys>'" if wanted.api_keys else ""
    key = "<one of your keys>" if wanted.api_keys else "none"
    return f"""
  curl -N {url}/v1/completions -H 'Content-Type: application/json'{header} \\
    -d '{{"model": "{wanted.served_name}", "prompt": "The", "max_tokens": 64, "stream": true}}'

  python -c 'from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
for chunk in client.completions.create(model="{wanted.served_name}", prompt="The", max_tokens=64, stream=True):
    print(chunk.choices[0].text, end="", flush=True)'

Ctrl-C ends it.
"""
