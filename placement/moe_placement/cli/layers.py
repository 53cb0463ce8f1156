"""Flags that say which layers of a model are MoE layers, where a file of an engine counts dense ones as well."""

from __future__ import annotations

import argparse
from pathlib import Path

from moe_placement.engines import ModelLayers, read_model_layers
from moe_placement.engines.layers import MOST_LAYERS
from moe_placement.errors import InvalidPlacementError, PlacementError
from moe_placement.ranges import from_ranges

NAMES = ("--config", "--moe-layers", "--model-layers")
ALL = "all"


def add_layers(command: argparse.ArgumentParser, text: str) -> None:
    """``text`` says what they are needed for."""
    group = command.add_argument_group("layers of the model", text)
    group.add_argument("--config", type=Path, metavar="JSON", help="the model's config.json, which says it")
    group.add_argument("--moe-layers", metavar="LAYERS", help="the MoE layers, such as 3-60 or 1,3,5; or all")
    group.add_argument("--model-layers", type=int, metavar="N", help="all layers, where dense ones come last")


def layer_flags(options: argparse.Namespace) -> tuple[object, ...]:
    """What is given for each of ``NAMES``."""
    return options.config, options.moe_layers, options.model_layers


def named_layers(options: argparse.Namespace, count: int | None = None) -> ModelLayers | None:
    """The layers that the flags name, None where they name none; ``all`` are ``count``.

    Raises:
        PlacementError: flags that contradict each other, or what they name cannot be.
    """
    if options.model_layers is not None and options.moe_layers is None:
        raise PlacementError("--model-layers is of --moe-layers: give both, or --config alone")
    if options.config is not None and options.moe_layers is not None:
        raise PlacementError("--config and --moe-layers both name the MoE layers: give one of them")
    if options.config is not None:
        return read_model_layers(options.config)
    if options.moe_layers is None:
        return None
    if options.moe_layers == ALL and count is not None:
        numbers = tuple(range(count))
    else:
        numbers = from_ranges(InvalidPlacementError, "--moe-layers", options.moe_layers, MOST_LAYERS - 1)
    return ModelLayers(numbers, max(numbers) + 1 if options.model_layers is None else options.model_layers)


def needed_layers(options: argparse.Namespace, count: int, why: str, what: str) -> ModelLayers:
    """The same where they must be named, and be ``count``: as many as ``what`` has.

    Raises:
        PlacementError: they are not named (``why`` they must be), or not so many.
    """
    layers = named_layers(options, count)
    if layers is None:
        raise PlacementError(
            f"{why}: give --config with the model's config.json, or --moe-layers such as 3-60 (all where no layer is "
            "dense)"
        )
    if len(layers.moe) != count:
        source = f"--config {options.config}" if options.config is not None else "--moe-layers"
        raise PlacementError(f"{source} names {len(layers.moe)} MoE layers of {layers.total}, {what} has {count}")
    return layers
