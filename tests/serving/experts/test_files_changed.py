"""A shard that has opened other files than the directory: it looks at them again, and opens what is put right."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from opened_shards import opened_shards
from own_cache import own_cache
from parted import EVEN, part
from stub_hub import REPOSITORY, REVISION, StubHub, files_of, running
from waiting import wait_until

from moe_serving.checkpoint import Checkpoint
from moe_serving.experts.description import LoadOrder
from moe_serving.experts.errors import OtherIncarnationError
from moe_serving.experts.shard import Shard

MODEL = f"hf://{REPOSITORY}@{REVISION}"
Start = Callable[[str], Shard]


@pytest.fixture
def start() -> Iterator[Start]:
    """A shard whose checkpoint is open."""
    with opened_shards() as start:
        yield partial(start, 0)


def wait_for_digest(shard: Shard, digest: str) -> None:
    wait_until(lambda: shard.describe().digest == digest, "the shard to open what was put right", 60)


def test_files_that_are_put_right_under_a_shard_are_opened(
    start: Start, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    right, path = checkpoint_of("mixtral"), tmp_path / "model"
    shutil.copytree(right, path)
    weights = next(path.glob("*.safetensors"))
    content = weights.read_bytes()
    half = len(content) // 2
    weights.write_bytes(content[:half] + bytes(byte ^ 1 for byte in content[half:]))
    wanted = Checkpoint.open(right).digest
    shard = start(str(path))
    before = shard.describe()
    assert before.digest not in (None, wanted)
    with pytest.raises(OtherIncarnationError):
        shard.look_again("another", wanted)
    shard.look_again(before.incarnation, wanted)  # nothing was put right yet
    # Others are renamed into their place, as whoever copies a model does, and a peer may still read the former ones.
    shutil.copyfile(next(right.glob("*.safetensors")), path / "copy")
    (path / "copy").rename(weights)
    assert shard.describe().incarnation == before.incarnation
    wait_until(lambda: _asked(shard, before.incarnation, wanted), "the shard to open what was put right", 60)
    said = shard.describe()
    assert said.address != before.address
    assert said.held is not None
    assert not said.held.any()
    shard.assign(said.incarnation, [LoadOrder(0, 3)], [])
    wait_until(lambda: not shard.describe().loading.queue, "the expert to be loaded", 60)
    held = shard.describe().held
    assert held is not None
    assert np.argwhere(held).tolist() == [[0, 3]]
    shard.probe(10.0)
    # What it has is right: it goes on as it is.
    shard.look_again(said.incarnation, wanted)
    shard.look_again(said.incarnation, "sha256:of nothing")
    assert shard.describe().incarnation == said.incarnation


def _asked(shard: Shard, incarnation: str, wanted: str) -> bool:
    said = shard.describe()
    if said.digest not in (None, wanted):
        shard.look_again(incarnation, wanted)
    return said.digest == wanted


def test_what_was_told_wrongly_of_files_is_asked_for_anew(
    start: Start, checkpoint_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other process of its node may be there to do so."""
    parted = part(checkpoint_of("mixtral"), tmp_path / "parted")
    wanted = Checkpoint.open(parted).digest
    with own_cache(tmp_path, monkeypatch), running(StubHub(files_of(parted))) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.spoilt.add(EVEN)
        shard = start(MODEL)
        before = shard.describe()
        assert before.digest not in (None, wanted)
        hub.spoilt.clear()
        shard.look_again(before.incarnation, wanted)
        wait_for_digest(shard, wanted)
        assert shard.describe().incarnation != before.incarnation
        assert not hub.gets.get(EVEN), "no file was needed for that"
        shard.stop(10.0)
