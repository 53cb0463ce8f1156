"""The command ``moe-operator``."""

from __future__ import annotations

import argparse
import asyncio

from moe_operator.process.options import add_run_options, read_run_options
from moe_operator.process.run import run
from moe_operator.release import release
from moe_operator.telemetry.logs import setup_logging


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="moe-operator", description="Serves Mixture-of-Experts models that are declared in Kubernetes, on Ray."
    )
    parser.add_argument("--version", action="version", version=release() or "not installed")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_run_options(commands.add_parser("run", help="watch MoEDeployments and have them served"))
    options = read_run_options(parser.parse_args(arguments))
    setup_logging(options.log_format, options.log_level)
    return asyncio.run(run(options))
