"""A model looked at beside the one that runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from scene import FakeShard

from moe_contract.applications import DirectoryConfig, ModelArgs, ShardRef
from moe_contract.model import ModelFacts
from moe_contract.report import CandidateReport
from moe_serving.checkpoint import ModelError
from moe_serving.directory import candidate
from moe_serving.directory.directory import Directory
from moe_serving.experts.description import ShardDescription
from moe_serving.fetching.asking import Cached

RUNNING, GOOD, BAD, ODD = (ModelArgs(path=path) for path in ("/running", "/good", "/bad", "/odd"))


def facts_of(model: ModelArgs) -> ModelFacts:
    return ModelFacts(
        digest=model.path,
        architecture="Mixtral",
        layers=2,
        experts=4,
        top_k=2,
        bytes_per_expert=8,
        dtype="float32",
        max_context=64,
    )


class Disk:
    """Models by path: those of ``missing`` cannot be served."""

    def __init__(self) -> None:
        self.missing = {BAD.path}

    def inspect(self, model: ModelArgs) -> ModelFacts:
        if model.path in self.missing:
            raise ModelError("PathNotFound", f"model path {model.path} does not exist")
        if model == ODD:
            raise RecursionError("too deep")
        return facts_of(model)


async def until_inspected(directory: Directory) -> None:
    """Both models are looked at in threads of their own, in either order."""
    async with asyncio.timeout(10):
        while True:
            if directory.report().model is not None:
                return
            await asyncio.sleep(0.01)


async def found(directory: Directory, model: ModelArgs, *, good: bool) -> CandidateReport:
    """The report on ``model``, once it is ``good`` or has a problem."""
    async with asyncio.timeout(10):
        while True:
            seen = directory.report().candidate
            if seen is not None and seen.args == model and (seen.model if good else seen.model_problem):
                return seen
            await asyncio.sleep(0.01)


async def test_what_is_to_take_the_place_of_another_one_is_looked_at_more_closely() -> None:
    """All its files must be to be had, which is more than the model that runs is asked about."""
    disk = Disk()

    def closely(model: ModelArgs, cached: Cached) -> ModelFacts:
        if model == GOOD:
            raise ModelError("DownloadFailed", "odd.safetensors cannot be had")
        return disk.inspect(model)

    directory = Directory(
        GOOD, disk.inspect, lambda shard: pytest.fail("there are no shards"), inspect_candidate=closely
    )
    running = asyncio.create_task(directory.run())
    try:
        await until_inspected(directory)
        directory.configure(DirectoryConfig(candidate=GOOD).model_dump(mode="json"))
        found_bad = await found(directory, GOOD, good=False)
        assert found_bad.model_problem is not None
        assert found_bad.model_problem.message == "odd.safetensors cannot be had"
        assert directory.report().model == facts_of(GOOD)
    finally:
        running.cancel()


@pytest.mark.parametrize(
    ("path", "near", "caches_go", "cached"),
    [
        # Only dtype or device change, and every node with a shard has all files: who keeps them may be away.
        ("/running", (True, True), False, Cached.EVERYWHERE),
        ("/running", (True, False), False, Cached.HERE),
        ("/good", (True, True), False, Cached.HERE),
        ("/running", (), False, Cached.HERE),
        # As pods of KubeRay do: what they have fetched is lost before it is needed.
        ("/running", (True, True), True, Cached.NOWHERE),
        ("/good", (False, False), True, Cached.NOWHERE),
    ],
)
async def test_which_files_need_not_be_asked_for(
    path: str, near: tuple[bool, ...], caches_go: bool, cached: Cached
) -> None:
    seen: list[Cached] = []

    def inspect(model: ModelArgs, of_it: Cached) -> ModelFacts:
        seen.append(of_it)
        return facts_of(model)

    class Near(FakeShard):
        async def describe(self, known: str | None, hold: float) -> ShardDescription:
            return replace(await super().describe(known, hold), near_checkpoint=near[self.index])

    def connect(ref: ShardRef) -> FakeShard:
        return Near(ref.index)

    directory = Directory(RUNNING, facts_of, connect, inspect_candidate=inspect)
    running = asyncio.create_task(directory.run())
    told = DirectoryConfig(shards=tuple(ShardRef(index=index, application=f"s{index}") for index in range(len(near))))
    try:
        directory.configure(told.model_dump(mode="json"))
        await until_inspected(directory)
        async with asyncio.timeout(10):
            while True:
                if all(shard.phase == "Ready" for shard in directory.report().shards):
                    break
                await asyncio.sleep(0.01)
        candidate = ModelArgs(path=path, dtype="bfloat16")
        asked = told.model_copy(update={"candidate": candidate, "caches_go": caches_go})
        directory.configure(asked.model_dump(mode="json"))
        await found(directory, candidate, good=True)
    finally:
        running.cancel()
    assert seen == [cached]


async def test_it_is_reported_whatever_becomes_of_it_and_what_runs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate, "INSPECT_AGAIN_SECONDS", 0.05)
    disk = Disk()
    directory = Directory(RUNNING, disk.inspect, connect=lambda shard: pytest.fail("there are no shards"))
    running = asyncio.create_task(directory.run())
    try:
        assert directory.report().candidate is None
        await until_inspected(directory)
        directory.configure(DirectoryConfig(candidate=BAD).model_dump(mode="json"))
        bad = await found(directory, BAD, good=False)
        assert bad.model_problem is not None
        assert (bad.model, bad.model_problem.reason) == (None, "PathNotFound")
        assert directory.report().model == facts_of(RUNNING)
        directory.configure(DirectoryConfig(candidate=ODD).model_dump(mode="json"))
        odd = await found(directory, ODD, good=False)
        assert odd.model_problem is not None
        assert odd.model_problem.message == "the model at /odd cannot be inspected: RecursionError: too deep"
        assert not running.done()
        directory.configure(DirectoryConfig(candidate=GOOD).model_dump(mode="json"))
        assert (await found(directory, GOOD, good=True)).model == facts_of(GOOD)
        # One that is repaired is found good without being asked for again.
        directory.configure(DirectoryConfig(candidate=BAD).model_dump(mode="json"))
        await found(directory, BAD, good=False)
        disk.missing.clear()
        await found(directory, BAD, good=True)
        directory.configure(DirectoryConfig().model_dump(mode="json"))
        assert directory.report().candidate is None
    finally:
        running.cancel()
