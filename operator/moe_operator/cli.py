"""The command ``moe-operator``."""

from __future__ import annotations

import argparse
import asyncio

from moe_contract.release import release
from moe_operator.chart.trial import trial
from moe_operator.chart.uninstall import check_uninstall
from moe_operator.process.options import (
    add_run_options,
    add_trial_options,
    add_uninstall_options,
    read_run_options,
)
from moe_operator.process.run import run
from moe_operator.telemetry.logs import setup_logging


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="moe-operator", description="Serves Mixture-of-Experts models that are declared in Kubernetes, on Ray."
    )
    parser.add_argument("--version", action="version", version=release() or "not installed")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_run_options(commands.add_parser("run", help="watch MoEDeployments and have them served"))
    add_trial_options(commands.add_parser("trial", help="make a MoEDeployment, ask it, and delete it: helm test"))
    add_uninstall_options(
        commands.add_parser("check-uninstall", help="fail while a MoEDeployment needs the operator for its deletion")
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "trial":
        return trial(chosen.kubeconfig, chosen.namespace, chosen.spec, chosen.timeout)
    if chosen.command == "check-uninstall":
        return asyncio.run(check_uninstall(chosen.kubeconfig, chosen.namespace))
    options = read_run_options(chosen)
    setup_logging(options.log_format, options.log_level)
    return asyncio.run(run(options))
