"""``moe-serve calibrate`` on the tiny model, and that replicas compute what it has measured."""

import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from moe_contract.applications import RoutingConfig
from moe_contract.model import ModelFacts
from moe_serving import cli
from moe_serving.adaptive.calibration import Calibration, allowed, read_calibration
from moe_serving.adaptive.measure import WholeModel
from moe_serving.checkpoint import Checkpoint, inspect_model
from moe_serving.device import resolve_device

TINY = Path(__file__).parents[3] / "models" / "tiny"
LIBRARY = Path(sysconfig.get_path("stdlib"))
WINDOW = 96


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return inspect_model(str(TINY), "float32")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of some 8,000 tokens of Python: seconds, and enough to see that more saved costs more."""
    folder = tmp_path_factory.mktemp("calibration")
    text = "\n".join((LIBRARY / name).read_text() for name in ("argparse.py", "ast.py", "calendar.py"))
    (folder / "text").write_text(text[:27_000])
    arguments = ["--text", str(folder / "text"), "--output", str(folder / "c.json"), "--window", str(WINDOW)]
    assert cli.main(["calibrate", "--model", str(TINY), "--dtype", "float32", "--device", "cpu", *arguments]) == 0
    return folder / "c.json"


@pytest.fixture(scope="module")
def calibration(file: Path) -> Calibration:
    return read_calibration(str(file))


def test_it_is_of_this_model_and_reaches_what_was_asked(calibration: Calibration, facts: ModelFacts) -> None:
    assert (calibration.model, calibration.layers, calibration.top_k) == (facts.digest, 6, 2)
    assert [round(level.pairs_saved) for level in calibration.levels] == pytest.approx([5, 10, 15, 20, 25, 30], abs=2)
    assert calibration.held_out_tokens == pytest.approx(calibration.calibration_tokens, abs=WINDOW)


def test_more_saved_costs_more_and_touches_fewer_experts(calibration: Calibration) -> None:
    first, last = calibration.levels[0], calibration.levels[-1]
    assert last.loss_increase > max(0.002, 3 * abs(first.loss_increase))
    assert last.experts_touched < first.experts_touched < first.experts_chosen
    for level in calibration.levels:
        assert level.loss_low < level.loss_increase < level.loss_high


def test_it_allows_what_it_says_it_does(calibration: Calibration, facts: ModelFacts) -> None:
    reach = calibration.curve.reach(0.01)
    assert reach > 5
    asked = RoutingConfig(calibration="/c.json", pairs_saved=reach - 0.1, max_loss_increase=0.01)
    assert allowed(calibration, asked, facts).high <= 0.01


def test_nothing_is_left_out_at_threshold_one(facts: ModelFacts) -> None:
    """Losses have the bits of the model as it is."""
    model = WholeModel(Checkpoint.open(TINY), "float32", resolve_device("cpu"))
    windows = np.random.default_rng(0).integers(5, 4000, size=(4, 64))
    layers, losses = model.choices(windows)
    found = model.measure(windows, [1.0] * model.layers)
    assert found.losses.tobytes() == losses.tobytes()
    assert (found.skipped, found.pairs) == (0, 4 * 64 * facts.layers * facts.top_k)
    assert [layer.pairs for layer in layers] == [4 * 64 * facts.top_k] * facts.layers


@pytest.mark.parametrize("variant", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_every_family_can_be_measured(checkpoint_of: Callable[[str], Path], variant: str) -> None:
    checkpoint = Checkpoint.open(checkpoint_of(variant))
    model = WholeModel(checkpoint, "float32", resolve_device("cpu"))
    windows = np.random.default_rng(0).integers(3, 300, size=(2, 32))
    exact, some = (model.measure(windows, [threshold] * model.layers) for threshold in (1.0, 0.7))
    assert model.layers == len(checkpoint.config.moe_layers)
    assert exact.skipped == 0 < some.skipped < some.pairs
    assert np.isfinite(some.losses).all()
    assert not torch.equal(torch.from_numpy(exact.losses), torch.from_numpy(some.losses))
