"""A cache of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from own_cache import own_cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with own_cache(tmp_path, monkeypatch) as path:
        yield path
