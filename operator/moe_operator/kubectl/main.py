"""The command ``kubectl-moe``, which kubectl runs as ``kubectl moe``."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from moe_operator.kubectl.cluster import Cluster
from moe_operator.kubectl.commands import decisions, deployments, placements
from moe_operator.kubectl.commands.common import Answer, Request
from moe_operator.kubectl.exits import Exit, PluginError, UsageError
from moe_operator.kubectl.terminal import Terminal
from moe_operator.text import on_one_line

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_EPILOG = "exit codes: " + ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in Exit)


@dataclass(frozen=True, slots=True)
class _Command:
    """Attributes:
    named: whether it is of one MoEDeployment, which has to be named.
    revisions: how many follow, as argparse has it.
    """

    does: str
    run: Callable[[Request], Answer]
    named: bool = True
    revisions: int | str = 0


_COMMANDS = {
    "status": _Command("how deployments are, and what waits for a decision", deployments.status, named=False),
    "placement": _Command(
        "which expert has how many copies, and what each shard holds", deployments.placement, revisions="?"
    ),
    "top": _Command("busy shards and experts", deployments.top, named=False),
    "proposals": _Command("all placements: proposed, in force, and over", placements.proposals, named=False),
    "explain": _Command(
        "why a placement is there, what it was to bring and what it brought", placements.explain, revisions=1
    ),
    "diff": _Command("what is loaded and freed from one revision to another", placements.diff, revisions=2),
    "approve": _Command("have a proposal migrated to", decisions.approve, revisions=1),
    "reject": _Command("decide against a proposal", decisions.reject, revisions=1),
    "rollback": _Command("return to the content of an earlier revision", decisions.rollback, revisions="?"),
    "pause": _Command("have the operator propose and move nothing of its own accord", decisions.pause),
    "resume": _Command("take a pause back", decisions.resume),
    "drain": _Command("have shards hold nothing any more", decisions.drain),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    options = _parse(arguments)
    try:
        answer = _answer(options, Terminal.of(sys.stdout))
    except PluginError as error:
        sys.stderr.write(f"error: {on_one_line(str(error))}\n")
        return error.exit
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return _print(json.dumps(answer.data, indent=2) if options.output == "json" else "\n".join(answer.lines))


def _print(text: str) -> int:
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # As in kubectl moe … | head: nobody reads on, and Python would complain of that at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return Exit.DONE


def _answer(options: argparse.Namespace, terminal: Terminal) -> Answer:
    if options.command == "top":
        if bool(options.name) == bool(options.url) or (options.api_key_file and not options.url):
            raise UsageError("top: name a MoEDeployment, or give a --url, with an --api-key-file where it wants a key")
        if options.url:
            return deployments.top_of(options.url, options.api_key_file, terminal)
    revisions = getattr(options, "revisions", None) or ()
    request = Request(
        cluster=Cluster(_kubectl_options(options)),
        terminal=terminal,
        now=datetime.now(UTC),
        name=options.name or "",
        revisions=(revisions,) if isinstance(revisions, str) else tuple(revisions),
        shards=getattr(options, "shards", ()),
        stop=getattr(options, "stop", False),
    )
    return _COMMANDS[options.command].run(request)


def _kubectl_options(options: argparse.Namespace) -> Iterator[str]:
    for name in ("namespace", "context", "kubeconfig"):
        value = getattr(options, name)
        if value is not None:
            yield f"--{name}={value}"


class _Parser(argparse.ArgumentParser):
    """With our own exit code; what was typed is shown on one line."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"error: {on_one_line(message)}\n")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options may stand anywhere behind the command, as kubectl has it; argparse's own subcommands do not take that."""
    parser = _Parser(
        prog="kubectl moe",
        description="\n".join(_described()),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=_COMMANDS, metavar="COMMAND", help="one of these; COMMAND -h says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    return _command_parser(chosen.command).parse_intermixed_args(
        chosen.arguments, argparse.Namespace(command=chosen.command)
    )


def _described() -> Iterator[str]:
    yield "Looks at MoEDeployments, and decides on their placements.\n"
    yield from (f"  {name:<10} {told.does}" for name, told in _COMMANDS.items())


def _command_parser(name: str) -> argparse.ArgumentParser:
    told = _COMMANDS[name]
    command = _Parser(prog=f"kubectl moe {name}", description=told.does, epilog=_EPILOG)
    text = "the MoEDeployment" if told.named or name == "top" else "the MoEDeployment; default: all of the namespace"
    command.add_argument("name", type=_name, metavar="NAME", nargs=None if told.named else "?", help=text)
    if told.revisions:
        text = "number of the revision, such as 8"
        command.add_argument("revisions", nargs=told.revisions, metavar="REV", help=text)
    command.add_argument("-n", "--namespace", help="default: that of the context")
    command.add_argument("--context", help="of the kubeconfig; default: its current one")
    command.add_argument("--kubeconfig", help="file; default: $KUBECONFIG, else ~/.kube/config")
    command.add_argument("-o", "--output", choices=("json",), help="json for scripts; default: for people")
    if name == "drain":
        _add_shards(command)
    if name == "top":
        _add_url(command)
    return command


def _add_shards(command: argparse.ArgumentParser) -> None:
    command.add_argument("shards", type=_shard, nargs="*", metavar="SHARD", help="index of a shard")
    command.add_argument(
        "--stop", action="store_true", help="drain them no longer; without a SHARD, none of the deployment"
    )


def _add_url(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", help="ask the deployment itself, at its base URL (status.url)")
    command.add_argument("--api-key-file", type=Path, help="file with an API key, for --url")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or len(text) > 253:
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is no name of a MoEDeployment")
    return text


def _shard(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 4):
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is no index of a shard: write 0, 1 and so on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
