"""The file, and whether it allows what is asked: each refusal names what is wrong, its value and the cure."""

import json
from pathlib import Path
from typing import Any

import pytest
from calibrated import calibration, written
from pydantic import ValidationError

from moe_contract.applications import RoutingConfig
from moe_contract.base import in_words
from moe_contract.model import ModelFacts
from moe_serving.adaptive.calibration import allowed, read_calibration
from moe_serving.adaptive.errors import AdaptiveRoutingError

FACTS = ModelFacts(
    digest="sha256:0123456789abcdef", architecture="Mixtral", layers=3, experts=16, top_k=2, bytes_per_expert=1024,
    dtype="float32", max_context=64,
)  # fmt: skip


def asked(**fields: Any) -> RoutingConfig:
    return RoutingConfig(**({"calibration": "/c.json"} | fields))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", FACTS)
    assert read_calibration(str(path)) == calibration(FACTS)
    assert json.loads(path.read_text())["levels"][0]["pairsSaved"] == 10.0


def test_what_is_not_known_is_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", FACTS)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": 1}))
    assert read_calibration(str(path)) == calibration(FACTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "moe-serve calibration 2"}, "format: Input should be 'moe-serve calibration 1'"),
        ({"levels": []}, "levels: Tuple should have at least 1 item"),
        ({"layers": 4}, "levels.0.thresholds: 3 of 4 layers"),
        ({"topK": 1}, "topK: Input should be greater than or equal to 2"),
        ({"loss": float("nan")}, "loss: Input should be a finite number"),
        ({"levels": [{"thresholds": [0.9, 0.4, 1]}]}, "levels.0.thresholds.1: Input should be greater than or equal"),
        ({"levels": [{"thresholds": [0.9, 1.1, 1]}]}, "levels.0.thresholds.1: Input should be less than or equal to 1"),
        ({"levels": [{"pairsSaved": 60}]}, "levels.0.pairsSaved: Input should be less than or equal to 50"),
        ({"levels": [{"pairsSaved": 0}]}, "levels.0.pairsSaved: Input should be greater than 0"),
        ({"levels": [{"lossHigh": 0.0}]}, "levels.0: lossIncrease 0.001 is not within its interval"),
        ({"levels": [{}, {"pairsSaved": 10.0}]}, "levels.1.pairsSaved 10.0: not above the level before"),
    ],
    ids=str,
)
def test_a_file_that_cannot_be_used(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "c.json", FACTS)
    content = json.loads(path.read_text())
    if changed := change.pop("levels", None):
        levels = [level | other for level, other in zip(content["levels"], changed, strict=False)]
        change = change | {"levels": levels}
    elif changed is not None:
        change = {"levels": []}
    path.write_text(json.dumps(content | change))
    with pytest.raises(AdaptiveRoutingError) as refused:
        read_calibration(str(path))
    assert message in str(refused.value)
    assert f"calibration {path} is none that this release can use" in str(refused.value)
    assert "write one with moe-serve calibrate" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory; write one with moe-serve calibrate, where each node"),
        (b"", "is none that this release can use"),
        (b"[" * 100_000, "is none that this release can use"),
        (b" " * (5 << 20), "is larger than 4 MiB; is it one?"),
    ],
    ids=("absent", "empty", "deep", "large"),
)
def test_what_is_no_calibration(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AdaptiveRoutingError, match=message):
        read_calibration(str(path))


def test_a_folder_is_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(AdaptiveRoutingError, match="cannot be read: Is a directory"):
        read_calibration(str(tmp_path))


def test_what_is_allowed_and_what_it_costs() -> None:
    assert allowed(calibration(FACTS), asked(pairs_saved=15, max_loss_increase=0.004), FACTS).mean == pytest.approx(
        0.0025
    )


@pytest.mark.parametrize(
    ("fields", "other", "message"),
    [
        (
            {},
            {"digest": "sha256:ffffffffffffffff"},
            "calibration /c.json is of another model, sha256:0123456789ab (3 layers, top 2), than is served, "
            "sha256:ffffffffffff (3 layers, top 2); calibrate this one with moe-serve calibrate",
        ),
        (
            {"pairs_saved": 31, "max_loss_increase": 1},
            {},
            "pairsSaved 31 is beyond the 30 that calibration /c.json reaches; ask for less, or calibrate with a larger "
            "--most",
        ),
        (
            {"pairs_saved": 20, "max_loss_increase": 0.005},
            {},
            "maxLossIncrease 0.005 does not allow pairsSaved 20: on 8000 held-out tokens the loss grows by +0.0040 "
            "(95%: +0.0020 to +0.0060), of which the upper end counts; ask for 17.7 at most, or allow more",
        ),
    ],
)
def test_what_is_refused(fields: dict[str, Any], other: dict[str, Any], message: str) -> None:
    with pytest.raises(AdaptiveRoutingError) as refused:
        allowed(calibration(FACTS), asked(**fields), FACTS.model_copy(update=other))
    assert str(refused.value) == message


def test_the_cure_that_is_named_works() -> None:
    allowed(calibration(FACTS), asked(pairs_saved=17.7, max_loss_increase=0.005), FACTS)
    with pytest.raises(AdaptiveRoutingError):
        allowed(calibration(FACTS), asked(pairs_saved=17.8, max_loss_increase=0.005), FACTS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs_saved": 0}, "pairs_saved: Input should be greater than 0"),
        ({"pairs_saved": 51}, "pairs_saved: Input should be less than or equal to 50"),
        ({"pairs_saved": float("nan")}, "pairs_saved: Input should be a finite number"),
        ({"max_loss_increase": 0}, "max_loss_increase: Input should be greater than 0"),
        ({"max_loss_increase": 2}, "max_loss_increase: Input should be less than or equal to 1"),
        ({"calibration": "c.json"}, "calibration: String should match pattern"),
        ({"calibration": ""}, "calibration: String should have at least 1 character"),
    ],
)
def test_bounds_of_what_is_asked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        asked(**fields)
    assert message in in_words(refused.value)
