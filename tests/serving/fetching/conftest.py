"""A cache of the test's own, and a checkpoint in several files on servers on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from own_cache import own_cache
from parted import part
from stub_hub import StubHub, files_of, running
from stub_web import StubWeb
from stub_web import running as serving


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with own_cache(tmp_path, monkeypatch) as path:
        yield path


@pytest.fixture(scope="session")
def parted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return part(tiny, tmp_path_factory.mktemp("parted") / "model")


@pytest.fixture
def hub(parted: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    with running(StubHub(files_of(parted))) as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        yield stub


@pytest.fixture
def web_model(parted: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StubWeb, str]]:
    monkeypatch.setenv("MOE_MODEL_LOOPBACK", "1")
    with serving(StubWeb(files_of(parted))) as web:
        yield web, web.s3
