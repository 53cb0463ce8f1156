"""``moe-serve calibrate``: how few experts of a row are enough, and what that costs, measured on text."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moe_contract.applications import MOST_PAIRS_SAVED
from moe_contract.model import ModelFacts
from moe_serving.adaptive import fit
from moe_serving.adaptive.calibration import Calibration, Level
from moe_serving.adaptive.errors import AdaptiveRoutingError
from moe_serving.adaptive.interval import loss_increase
from moe_serving.adaptive.text import STEP_ROWS, Halves, halves, read_texts
from moe_serving.api.tokenizer import ModelTokenizer
from moe_serving.checkpoint import Checkpoint, ModelError
from moe_serving.fetching.fetch import bring, local_model

if TYPE_CHECKING:
    from moe_serving.adaptive.measure import WholeModel

NAME = "calibrate"

LEVELS = 6
_PROBED = 0.2
"""Part of a layer's pairs that are left out to see what it costs there."""
_PROBE_WINDOWS = 256
"""At most: each layer has them computed once."""


def main(argv: Sequence[str]) -> int:
    """
    Returns:
        0 when the file is written, 2 when arguments, text or model cannot work.
    """
    arguments = _parser().parse_args(argv)
    try:
        calibration = _calibrated(arguments)
        _write(calibration, arguments.output)
    except (AdaptiveRoutingError, ModelError) as error:
        print(f"moe-serve {NAME}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(_table(calibration))
    return 0


def calibrate(model: WholeModel, text: Halves, facts: ModelFacts, most: float) -> Calibration:
    """Thresholds that save up to ``most`` percent of the pairs, and what they cost on the text that is held out."""
    layers, losses = model.choices(text.calibration)
    cost = _costs(model, layers, text, losses)
    _, whole = model.choices(text.held_out)
    levels: list[Level] = []
    for number in range(1, LEVELS + 1):
        saved = most * number / LEVELS
        level = _level(model, text, whole, fit.thresholds(layers, cost, saved / 100))
        if levels and level.pairs_saved <= levels[-1].pairs_saved:
            break  # no more can be left out
        levels.append(level)
        _tell(f"{level.pairs_saved:.1f}% of the pairs saved")
    return Calibration(
        model=facts.digest, layers=facts.layers, top_k=facts.top_k, dtype=facts.dtype, text=text.digest,
        window=text.held_out.shape[1], calibration_tokens=text.calibration.size, held_out_tokens=text.held_out.size,
        step_rows=STEP_ROWS, loss=float(whole.mean()), levels=tuple(levels),
    )  # fmt: skip


def _costs(
    model: WholeModel, layers: Sequence[fit.Layer], text: Halves, losses: NDArray[np.float64]
) -> NDArray[np.float64]:
    probed = text.calibration[:_PROBE_WINDOWS]
    probes = []
    for number, layer in enumerate(layers):
        bound = layer.bound(_PROBED)
        thresholds = [1.0] * len(layers)
        thresholds[number] = 1 - bound
        found = model.measure(probed, thresholds)
        probes.append(fit.Probe(bound, float((found.losses - losses[: len(probed)]).mean())))
        _tell(f"layer {number + 1} of {len(layers)}")
    return fit.costs(layers, probes)


def _level(model: WholeModel, text: Halves, whole: NDArray[np.float64], bounds: NDArray[np.float64]) -> Level:
    thresholds = tuple(round(float(bound), 6) for bound in bounds)
    found = model.measure(text.held_out, thresholds)
    loss = loss_increase(found.losses - whole)
    return Level(
        pairs_saved=100 * found.skipped / found.pairs,
        thresholds=thresholds,
        loss_increase=loss.mean,
        loss_low=loss.low,
        loss_high=loss.high,
        experts_touched=found.touched / max(1, found.steps),
        experts_chosen=found.chosen / max(1, found.steps),
    )


def _calibrated(arguments: argparse.Namespace) -> Calibration:
    path = local_model(arguments.model)
    checkpoint = Checkpoint.open(path)
    facts = checkpoint.facts(arguments.dtype)
    if facts.top_k < 2:
        raise AdaptiveRoutingError(f"--model {arguments.model}: top 1 has no expert that could be left out")
    _check(arguments, facts)
    text = halves(read_texts(arguments.text), ModelTokenizer.load(path), arguments.window, arguments.most_tokens)
    bring(arguments.model, checkpoint.files)
    from moe_serving.adaptive.measure import WholeModel  # noqa: PLC0415 - torch, once what was asked can work
    from moe_serving.device import resolve_device  # noqa: PLC0415 - likewise

    _tell(f"{text.calibration.size} tokens to calibrate on, {text.held_out.size} held out")
    model = WholeModel(checkpoint, facts.dtype, resolve_device(arguments.device))
    return calibrate(model, text, facts, arguments.most)


def _check(arguments: argparse.Namespace, facts: ModelFacts) -> None:
    if not 0 < arguments.most <= MOST_PAIRS_SAVED:
        raise AdaptiveRoutingError(f"--most {arguments.most:g}: must be above 0 and at most {MOST_PAIRS_SAVED}")
    if not 32 <= arguments.window <= facts.max_context:
        raise AdaptiveRoutingError(
            f"--window {arguments.window}: must be 32 to {facts.max_context}, the context of the model"
        )
    folder = arguments.output.parent
    if not folder.is_dir():
        raise AdaptiveRoutingError(f"--output {arguments.output}: there is no folder {folder}; make it first")


def _write(calibration: Calibration, path: Path) -> None:
    try:
        calibration.write(path)
    except OSError as error:
        raise AdaptiveRoutingError(f"--output {path}: {error.strerror}; choose another file") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"moe-serve {NAME}",
        description="Measure which experts of low gate weight can be left out, and what that costs, on text like that "
        "which will be served. Half of the text finds thresholds, the other half tells the loss.",
    )
    parser.add_argument("--model", required=True, metavar="PATH", help="as moe-serve takes it; all of it is loaded")
    parser.add_argument(
        "--text", required=True, type=Path, action="append", metavar="FILE", help="UTF-8; may be repeated"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="JSON, for --adaptive-routing")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--window", type=int, default=512, metavar="TOKENS", help="seen together (default 512)")
    parser.add_argument(
        "--most", type=float, default=30.0, metavar="PERCENT", help="of the pairs saved, at most (default 30)"
    )
    parser.add_argument(
        "--most-tokens", type=int, default=400_000, metavar="N", help="of the text that are used (default 400000)"
    )
    return parser


def _table(calibration: Calibration) -> str:
    lines = [
        f"loss on {calibration.held_out_tokens} held-out tokens: {calibration.loss:.4f} nats per token",
        f"pairs saved  loss increase                         experts of a layer for {calibration.step_rows} rows",
    ]
    for level in calibration.levels:
        experts = f"{level.experts_touched:.2f} of {level.experts_chosen:.2f}"
        lines.append(f"{level.pairs_saved:10.1f}%  {level.loss!s:<36}  {experts}")
    return "\n".join(lines)


_started = time.monotonic()


def _tell(text: str) -> None:
    print(f"[{time.monotonic() - _started:5.1f} s] {text}", flush=True)
