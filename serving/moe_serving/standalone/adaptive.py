"""Adaptive routing on the command line: its options, and whether what they ask for is allowed."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydantic import ValidationError

from moe_contract.applications import LOSS_INCREASE, PAIRS_SAVED, RoutingConfig
from moe_contract.base import in_words
from moe_contract.model import ModelFacts
from moe_serving.adaptive.calibration import allowed, read_calibration
from moe_serving.adaptive.curve import LossIncrease
from moe_serving.adaptive.errors import AdaptiveRoutingError
from moe_serving.standalone.desired import Wanted
from moe_serving.standalone.errors import UsageError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adaptive-routing",
        metavar="FILE",
        help="leave out experts of low gate weight, as this calibration allows: moe-serve calibrate writes it; answers "
        "are then no longer exactly the model's, and system_fingerprint says so (default: all are computed)",
    )
    parser.add_argument(
        "--pairs-saved",
        type=float,
        metavar="PERCENT",
        help=f"of tokens' experts that adaptive routing leaves out (default {PAIRS_SAVED:g})",
    )
    parser.add_argument(
        "--max-loss-increase",
        type=float,
        metavar="NATS",
        help=f"per token on the calibration's held-out text: what costs more is not done (default {LOSS_INCREASE:g})",
    )


def asked(arguments: argparse.Namespace) -> RoutingConfig | None:
    """
    Raises:
        UsageError: values out of bounds, or without the option that they are of.
    """
    options = {"pairs_saved": arguments.pairs_saved, "max_loss_increase": arguments.max_loss_increase}
    given = {name: value for name, value in options.items() if value is not None}
    file = arguments.adaptive_routing
    if file is None:
        for name, value in given.items():
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} {value:g}: says how --adaptive-routing FILE is done; give both or neither")
        return None
    try:
        return RoutingConfig(calibration=str(Path(file).resolve()) if file else "", **given)
    except ValidationError as error:
        raise UsageError(f"--adaptive-routing {file}: {in_words(error)}") from error


def checked(wanted: Wanted, facts: ModelFacts) -> LossIncrease | None:
    """What is asked costs so much on held-out text; None where nothing is. Replicas look at the file themselves.

    Raises:
        UsageError: the calibration does not allow it, or every answer is to be verified.
    """
    if wanted.routing is None:
        return None
    if wanted.model.verify:
        raise UsageError(
            f"--adaptive-routing {wanted.routing.calibration}: --verify compares each layer with all that its gates "
            "chose; take one of the two away"
        )
    try:
        return allowed(read_calibration(wanted.routing.calibration), wanted.routing, facts)
    except AdaptiveRoutingError as error:
        raise UsageError(f"--adaptive-routing: {error}") from error
