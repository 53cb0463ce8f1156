"""A cache of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_serving.fetching import cache as caches
from moe_serving.fetching import fetch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MOE_MODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(caches, "_used", used := {})
    monkeypatch.setattr(fetch, "_failed", {})
    monkeypatch.setattr(fetch, "AGAIN_SECONDS", 0.0)
    yield tmp_path / "cache"
    for stream in used.values():
        stream.close()
