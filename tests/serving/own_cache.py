"""A cache of models of the test's own, in which nothing failed before."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moe_serving.fetching import cache as caches
from moe_serving.fetching import fetch


@contextmanager
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Its directory, below ``folder``; what is used of it is let go at the end."""
    monkeypatch.setenv("MOE_MODEL_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(caches, "_used", used := {})
    monkeypatch.setattr(fetch, "_failed", {})
    monkeypatch.setattr(fetch, "_renewed", {})
    monkeypatch.setattr(fetch, "AGAIN_SECONDS", 0.0)
    yield folder / "cache"
    for stream in used.values():
        stream.close()
