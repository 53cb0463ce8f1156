"""FP8 on the command line: its options, and whether what they ask for is allowed."""

from __future__ import annotations

import argparse

from moe_contract.applications import Weights, Wire
from moe_serving.standalone.desired import Wanted
from moe_serving.standalone.errors import UsageError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        choices=["checkpoint", "fp8"],
        default="checkpoint",
        help="how shards hold experts; with fp8 in about half of bf16's memory, and answers are no longer exactly the "
        "model's, which system_fingerprint says (default checkpoint: in --dtype)",
    )
    parser.add_argument(
        "--wire",
        choices=["model", "fp8"],
        default="model",
        help="how rows travel between attention and shards; with fp8 in about half of bf16's bytes, and answers "
        "likewise (default model)",
    )


def weights(arguments: argparse.Namespace) -> Weights:
    return "FP8" if arguments.weights == "fp8" else "Checkpoint"


def wire(arguments: argparse.Namespace) -> Wire:
    return "FP8" if arguments.wire == "fp8" else "Model"


def check(wanted: Wanted) -> None:
    """
    Raises:
        UsageError: every answer is to be verified.
    """
    asked = {"--weights": wanted.model.weights, "--wire": wanted.wire}
    for option, value in asked.items():
        if wanted.model.verify and value == "FP8":
            raise UsageError(
                f"{option} fp8: --verify compares each layer with the checkpoint bit for bit; take one of the two away"
            )
