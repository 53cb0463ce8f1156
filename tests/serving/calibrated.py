"""A calibration such as ``moe-serve calibrate`` writes, of a model that need not be there."""

from pathlib import Path
from typing import Any

from moe_contract.model import ModelFacts
from moe_serving.adaptive.calibration import Calibration, Level


def calibration(facts: ModelFacts, **fields: Any) -> Calibration:
    """10% of the pairs for 0.001, 20% for 0.004, 30% for 0.02 nats; upper ends a half above."""
    levels = tuple(
        Level(
            pairs_saved=saved,
            thresholds=(1 - saved / 100,) * facts.layers,
            loss_increase=loss,
            loss_low=loss / 2,
            loss_high=1.5 * loss,
            experts_touched=4,
            experts_chosen=5,
        )
        for saved, loss in ((10.0, 0.001), (20.0, 0.004), (30.0, 0.02))
    )
    return Calibration(**{
        "model": facts.digest, "layers": facts.layers, "top_k": facts.top_k, "dtype": facts.dtype,
        "text": "sha256:00", "window": 256, "calibration_tokens": 9000, "held_out_tokens": 8000, "step_rows": 16,
        "loss": 3.5, "levels": levels,
    } | fields)  # fmt: skip


def written(path: Path, facts: ModelFacts, **fields: Any) -> Path:
    calibration(facts, **fields).write(path)
    return path
