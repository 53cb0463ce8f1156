"""What the deployments of Serve do about a model. They are not made as such, for at the end of one Python would call
what ends it in Serve."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from own_cache import own_cache
from parted import EVEN, FILES, part
from stub_hub import REPOSITORY, REVISION, StubHub, files_of, running

from moe_contract.applications import AttentionConfig, CoreArgs, DirectoryConfig, ModelArgs
from moe_contract.report import CandidateReport
from moe_serving.checkpoint import Checkpoint, ModelError
from moe_serving.fetching import fetch
from moe_serving.fetching.fetch import bring, local_model
from moe_serving.wire.endpoint import Endpoint

with warnings.catch_warnings(action="ignore"):  # Ray's own, about its use of pydantic
    from moe_serving.serve import directory as directories
    from moe_serving.serve.attention import Attention
    from moe_serving.serve.directory import Directory

MODEL = f"hf://{REPOSITORY}@{REVISION}"


@pytest.fixture
def parted(tiny: Path, tmp_path: Path) -> Path:
    return part(tiny, tmp_path / "parted")


@pytest.fixture
def hub(parted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    monkeypatch.setattr("moe_serving.fetching.outline.again_after", lambda seconds: None)
    with own_cache(tmp_path, monkeypatch), running(StubHub(files_of(parted))) as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        yield stub


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray and Serve tell a process of itself."""
    monkeypatch.setattr(directories, "prepare_replica", lambda: None)
    monkeypatch.setattr(directories.serve, "get_replica_context", lambda: SimpleNamespace(replica_tag="replica"))
    monkeypatch.setattr(directories.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    monkeypatch.setattr(directories, "open_here", lambda network: Endpoint.open("node", "127.0.0.1", network))


def nobody(*arguments: Any) -> None:
    pytest.fail("it calls nobody, and nobody calls it")


def told(**fields: Any) -> dict[str, Any]:
    return DirectoryConfig(**fields).model_dump(mode="json")


async def looked_at(directory: Any, candidate: ModelArgs, **more: Any) -> CandidateReport:
    """What the directory reports of a candidate, once it has looked at it."""
    await Directory.reconfigure(directory, told())
    await Directory.reconfigure(directory, told(candidate=candidate, **more))
    async with asyncio.timeout(60):
        while True:
            found = directory._directory.report().candidate
            if found is not None and (found.model or found.model_problem):
                return found
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("without_ray")
async def test_the_directory_asks_for_all_files_of_a_candidate_before_what_runs_gives_way(
    hub: StubHub, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looks first whether they are on its node, unless that goes."""
    candidate = ModelArgs(path=MODEL, dtype="bfloat16")
    directory: Any = SimpleNamespace(_connect=nobody, _sync=nobody, _take_statistics=nobody, _exchange=nobody)
    Directory.__init__(directory, CoreArgs(application="moe", model=ModelArgs(path=str(tiny))))
    try:
        good = await looked_at(directory, candidate)
        assert good.model is not None
        assert {name for name in FILES if hub.parts.get(name)} == set(FILES)
        kept = hub.files.pop(EVEN)
        bad = await looked_at(directory, candidate)
        assert bad.model_problem is not None
        assert bad.model_problem.message.startswith(f"{EVEN} cannot be had, so nothing is given up for this model: ")
        hub.files[EVEN] = kept
        path = Path(local_model(MODEL))
        bring(MODEL, [path / name for name in FILES])
        hub.files.clear()
        assert (await looked_at(directory, candidate)).model is not None
        monkeypatch.setattr(fetch, "goes_with_pod", lambda path: False)
        assert (await looked_at(directory, candidate, caches_go=True)).model is not None, "its volume stays"
        monkeypatch.setattr(fetch, "goes_with_pod", lambda path: True)
        lost = await looked_at(directory, candidate, caches_go=True)
        assert lost.model_problem is not None
        assert "nothing is given up for this model" in lost.model_problem.message
    finally:
        directory._running.cancel()
        await directory._direct.close()


@pytest.mark.torch
def test_an_attention_replica_with_another_checkpoint_than_the_directory_asks_anew(hub: StubHub, parted: Path) -> None:
    hub.spoilt.add(EVEN)
    path = Path(local_model(MODEL))
    wrong, right = Checkpoint.open(path).digest, Checkpoint.open(parted).digest
    model = ModelArgs(path=MODEL)
    replica: Any = SimpleNamespace(_args=CoreArgs(application="moe", model=model), _directorys_digest=right)
    hub.failing = 10_000
    with pytest.raises(ModelError, match=rf"(?s){wrong}.*{right}.*asked anew, in vain: .*503"):
        Attention._load(replica, AttentionConfig())
    assert Checkpoint.open(path).digest == wrong, "it is not lost for that"
    hub.failing = 0
    hub.spoilt.clear()
    with pytest.raises(ModelError, match=rf"{wrong}.*{right}"):
        Attention._load(replica, AttentionConfig())
    assert Checkpoint.open(path).digest == right, "the next try finds what was told now"
