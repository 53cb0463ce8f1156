"""Text as windows: all of it is seen, half is held out, and each window begins as the model expects."""

from pathlib import Path

import numpy as np
import pytest
from reference import build_tokenizer

from moe_serving.adaptive.errors import AdaptiveRoutingError
from moe_serving.adaptive.text import LEAST_WINDOWS, halves, read_texts
from moe_serving.api.tokenizer import ModelTokenizer

TOKENIZER = ModelTokenizer(build_tokenizer())
WORDS = " ".join(f"w{number % 300}" for number in range(2000))


def test_every_second_window_is_held_out() -> None:
    found = halves([WORDS], TOKENIZER, window=20, most_tokens=10**6)
    assert found.calibration.shape == found.held_out.shape == (50, 20)
    both = np.empty((100, 20), dtype=np.int64)
    both[::2], both[1::2] = found.calibration, found.held_out
    assert both.ravel().tolist() == TOKENIZER.encode(WORDS)


def test_of_more_text_windows_all_over_it_are_taken() -> None:
    found = halves([WORDS], TOKENIZER, window=20, most_tokens=20 * 70)
    assert len(found.calibration) + len(found.held_out) == 70
    assert found.held_out.max() > TOKENIZER.encode("w290")[0]


def test_texts_follow_one_another() -> None:
    assert halves([WORDS, WORDS], TOKENIZER, 20, 10**6).digest != halves([WORDS], TOKENIZER, 20, 10**6).digest
    assert len(halves([WORDS, WORDS], TOKENIZER, 20, 10**6).held_out) == 100


def test_a_text_that_is_too_short() -> None:
    least = LEAST_WINDOWS * 20
    halves([" ".join(["w1"] * least)], TOKENIZER, 20, 10**6)
    with pytest.raises(AdaptiveRoutingError) as refused:
        halves([" ".join(["w1"] * (least - 1))], TOKENIZER, 20, 10**6)
    assert str(refused.value) == (
        "--text: 1279 tokens are too short to calibrate on; give at least 1280 (64 windows of --window 20)"
    )


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("größer\n".encode())
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    assert read_texts([tmp_path / "a", tmp_path / "b"]) == ["größer\n", "\ufffd\ufffd"]
    with pytest.raises(AdaptiveRoutingError, match=f"--text {tmp_path}: Is a directory; give files of text"):
        read_texts([tmp_path])
