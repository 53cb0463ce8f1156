"""FP8 on the command line: its options, and whether what they ask for is allowed."""

from __future__ import annotations

import argparse

from moe_serving.standalone.desired import Wanted
from moe_serving.standalone.errors import UsageError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wire",
        choices=["model", "fp8"],
        default="model",
        help="how rows travel between attention and shards; with fp8 answers are no longer exactly the model's, and "
        "system_fingerprint says so (default model)",
    )


def check(wanted: Wanted) -> None:
    """
    Raises:
        UsageError: every answer is to be verified.
    """
    if wanted.model.verify and wanted.wire == "FP8":
        raise UsageError(
            "--wire fp8: --verify compares each layer with the checkpoint bit for bit; take one of the two away"
        )
