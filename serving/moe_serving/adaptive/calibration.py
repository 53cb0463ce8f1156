"""The file that ``moe-serve calibrate`` writes: thresholds of one model, and what they were measured to cost.

It may come from anybody, so it is bounded, and checked before anything is switched on by it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from moe_contract.applications import MOST_PAIRS_SAVED, RoutingConfig
from moe_contract.base import Count, Name, in_words
from moe_contract.model import ModelFacts
from moe_contract.sizes import MOST_EXPERTS, MOST_LAYERS
from moe_serving.adaptive.curve import Curve, LossIncrease, Point
from moe_serving.adaptive.errors import AdaptiveRoutingError
from moe_serving.adaptive.fit import LEAST_THRESHOLD

_MOST_BYTES = 4 << 20
_MOST_LEVELS = 64

Finite = Annotated[float, Field(allow_inf_nan=False)]
Threshold = Annotated[float, Field(ge=LEAST_THRESHOLD, le=1)]


class _File(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class Level(_File):
    """What was measured on held-out text with some thresholds.

    Attributes:
        pairs_saved: percent of the pairs.
        thresholds: of each layer, see ``rule.thin``.
        loss_increase, loss_low, loss_high: in nats per token, with a 95% interval.
        experts_touched, experts_chosen: of a layer, in steps of ``Calibration.step_rows`` rows: that were computed, and
            that gates chose.
    """

    pairs_saved: Annotated[float, Field(gt=0, le=MOST_PAIRS_SAVED)]
    thresholds: Annotated[tuple[Threshold, ...], Field(max_length=MOST_LAYERS)]
    loss_increase: Finite
    loss_low: Finite
    loss_high: Finite
    experts_touched: Annotated[float, Field(ge=0, le=MOST_EXPERTS)]
    experts_chosen: Annotated[float, Field(ge=0, le=MOST_EXPERTS)]

    @property
    def loss(self) -> LossIncrease:
        return LossIncrease(self.loss_increase, self.loss_low, self.loss_high)


class Calibration(_File):
    """Attributes:
    model: ``ModelFacts.digest``.
    layers, top_k: of it.
    dtype: in which it was measured.
    text: SHA-256 of the text.
    window: tokens of text that are seen together.
    calibration_tokens, held_out_tokens: from which thresholds were found, and on which they were measured.
    step_rows: see ``Level``.
    loss: of the whole model on the held-out text, in nats per token.
    levels: by rising ``pairs_saved``.
    """

    format: Literal["moe-serve calibration 1"] = "moe-serve calibration 1"
    model: Name
    layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    top_k: Annotated[int, Field(ge=2, le=MOST_EXPERTS)]
    dtype: Name
    text: Name
    window: Count
    calibration_tokens: Count
    held_out_tokens: Count
    step_rows: Count
    loss: Finite
    levels: Annotated[tuple[Level, ...], Field(min_length=1, max_length=_MOST_LEVELS)]

    @model_validator(mode="after")
    def _fits_together(self) -> Calibration:
        for number, level in enumerate(self.levels):
            if len(level.thresholds) != self.layers:
                raise ValueError(f"levels.{number}.thresholds: {len(level.thresholds)} of {self.layers} layers")
            if not level.loss_low <= level.loss_increase <= level.loss_high:
                raise ValueError(f"levels.{number}: lossIncrease {level.loss_increase} is not within its interval")
        for number, (less, more) in enumerate(pairwise(self.levels), start=1):
            if more.pairs_saved <= less.pairs_saved:
                raise ValueError(f"levels.{number}.pairsSaved {more.pairs_saved}: not above the level before")
        return self

    @property
    def curve(self) -> Curve:
        return Curve([Point(level.pairs_saved, level.thresholds, level.loss) for level in self.levels])

    def write(self, path: Path) -> None:
        """
        Raises:
            OSError: it cannot be written there.
        """
        path.write_text(self.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")


def read_calibration(path: str) -> Calibration:
    """
    Raises:
        AdaptiveRoutingError: there is none at ``path``, or what is there is none.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise AdaptiveRoutingError(
            f"calibration {path} cannot be read: {error.strerror}; write one with moe-serve calibrate, where each node "
            "can read it"
        ) from error
    if len(raw) > _MOST_BYTES:
        raise AdaptiveRoutingError(f"calibration {path} is larger than {_MOST_BYTES >> 20} MiB; is it one?")
    try:
        return Calibration.model_validate_json(raw)
    except ValidationError as error:
        said = in_words(error)[:500]
        raise AdaptiveRoutingError(
            f"calibration {path} is none that this release can use: {said}; write one with moe-serve calibrate"
        ) from error


def allowed(calibration: Calibration, asked: RoutingConfig, facts: ModelFacts) -> LossIncrease:
    """What is asked costs so much; see ``refusal`` for what is not allowed.

    Raises:
        AdaptiveRoutingError: the calibration is of another model, or does not allow what is asked.
    """
    path = asked.calibration
    theirs, ours = (calibration.model, calibration.layers, calibration.top_k), (facts.digest, facts.layers, facts.top_k)
    if theirs != ours:
        raise AdaptiveRoutingError(
            f"calibration {path} is of another model, {_named(*theirs)}, than is served, {_named(*ours)}; "
            "calibrate this one with moe-serve calibrate"
        )
    curve = calibration.curve
    if asked.pairs_saved > curve.most:
        raise AdaptiveRoutingError(
            f"pairsSaved {asked.pairs_saved:g} is beyond the {_rounded_down(curve.most):g} that calibration {path} "
            "reaches; ask for less, or calibrate with a larger --most"
        )
    loss = curve.loss(asked.pairs_saved)
    if loss.high > asked.max_loss_increase:
        raise AdaptiveRoutingError(
            f"maxLossIncrease {asked.max_loss_increase:g} does not allow pairsSaved {asked.pairs_saved:g}: on "
            f"{calibration.held_out_tokens} held-out tokens the loss grows by {loss}, of which the upper end counts; "
            f"ask for {_rounded_down(curve.reach(asked.max_loss_increase)):g} at most, or allow more"
        )
    return loss


def _named(digest: str, layers: int, top_k: int) -> str:
    return f"{digest[:19]} ({layers} layers, top {top_k})"


def _rounded_down(percent: float) -> float:
    """To a tenth: what is named is allowed."""
    return int(percent * 10) / 10
