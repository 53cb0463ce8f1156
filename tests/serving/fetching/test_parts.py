"""A checkpoint in several files, kept elsewhere: opened without its weights, of which processes have what they need."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from parted import EVEN, FILES, ODD, OTHERS
from stub_hub import REPOSITORY, REVISION, StubHub
from stub_web import StubWeb

from moe_serving.checkpoint import Checkpoint, ModelError
from moe_serving.checkpoint.samples import SAMPLES_FILE
from moe_serving.checkpoint.tensors import outline_of
from moe_serving.fetching import cache as caches
from moe_serving.fetching import fetch
from moe_serving.fetching.cache import Cache
from moe_serving.fetching.fetch import bring, fetched, local_model, local_text, renew_outline

MODEL = f"hf://{REPOSITORY}@{REVISION}"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


def weights(gets: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in gets.items() if name.endswith(".safetensors")}


def files_at(path: str) -> set[str]:
    return {file.name for file in Path(path).iterdir() if file.name.endswith(".safetensors")}


def test_it_is_opened_without_a_weight(hub: StubHub, parted: Path) -> None:
    path = local_model(MODEL)
    assert weights(hub.gets) == {}
    assert files_at(path) == set()
    found, whole = Checkpoint.open(path), Checkpoint.open(parted)
    assert found.digest == whole.digest
    assert found.facts("auto") == whole.facts("auto")
    assert {file.name for file in found.files} == set(FILES)
    assert {file.name for file in found.other_files} == {OTHERS}
    assert {file.name for file in found.expert_files(1, 3)} == {ODD}
    before = hub.parts.copy()
    assert local_model(MODEL) == path
    assert hub.parts == before
    assert fetched(MODEL) is None


def test_whoever_needs_no_weights_asks_for_none(hub: StubHub, parted: Path) -> None:
    path = Path(local_text(MODEL))
    assert (path / "tokenizer.json").read_bytes() == (parted / "tokenizer.json").read_bytes()
    assert weights(hub.gets) == weights(hub.parts) == {}


def test_files_come_as_they_are_needed_and_the_digest_stays(hub: StubHub, parted: Path) -> None:
    path = Path(local_model(MODEL))
    digest = Checkpoint.open(path).digest
    for number, name in enumerate(FILES, start=1):
        bring(MODEL, [path / name])
        bring(MODEL, [path / name])
        assert weights(hub.gets) == dict.fromkeys(FILES[:number], 1)
        assert (path / name).read_bytes() == (parted / name).read_bytes()
        assert Checkpoint.open(path).digest == digest
        assert Cache.of_environment().is_complete(path.name) == (number == len(FILES))
    assert not (path / ".arriving").exists()


@pytest.mark.torch
def test_attention_needs_what_belongs_to_no_expert(hub: StubHub, parted: Path) -> None:
    import torch  # noqa: PLC0415 - takes seconds

    from moe_serving.engine.experts import Computed, ExpertsClient  # noqa: PLC0415 - imports torch
    from moe_serving.engine.model import load_attention_model  # noqa: PLC0415 - imports torch

    class NoExperts(ExpertsClient):
        def submit(self, layer: int, hidden: torch.Tensor, *_: torch.Tensor) -> Computed:
            return Computed(torch.zeros_like(hidden))

    path = Path(local_model(MODEL))
    bring(MODEL, Checkpoint.open(path).other_files)
    assert weights(hub.gets) == {OTHERS: 1}
    found, whole = (
        load_attention_model(each, "float32", "cpu", NoExperts()).module.state_dict() for each in (path, parted)
    )
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_progress_is_over_what_is_wanted(hub: StubHub) -> None:
    path = Path(local_model(MODEL))
    small = sum(len(content) for name, content in hub.files.items() if name not in FILES)
    even, others = len(hub.files[EVEN]), len(hub.files[OTHERS])
    heard: list[tuple[int, int]] = []
    bring(MODEL, [path / EVEN], [path / OTHERS], lambda *told: heard.append(told))
    assert list(dict.fromkeys(heard)) == [(small, small + even + others), (small + even, small + even + others)]
    assert fetched(MODEL) == heard[-1]
    assert int((path.parent / f"{path.name}.size").read_text()) == small + even + others
    bring(MODEL, [path / OTHERS])
    assert fetched(MODEL) is None, "all that is wanted is there"


def test_what_hears_may_end_it_and_it_goes_on_later(web_model: tuple[StubWeb, str]) -> None:
    _, model = web_model
    path = Path(local_model(model))

    def give_up(done: int, total: int) -> None:
        raise InterruptedByTestError

    with pytest.raises(InterruptedByTestError):
        bring(model, [path / EVEN], heard=give_up)
    assert files_at(str(path)) == set()
    bring(model, [path / EVEN])
    assert files_at(str(path)) == {EVEN}


class InterruptedByTestError(Exception):
    pass


def test_a_store_gives_parts_too(web_model: tuple[StubWeb, str], parted: Path) -> None:
    web, model = web_model
    path = Path(local_model(model))
    assert weights(web.gets) == {}
    assert set(weights(web.parts)) == set(FILES)
    assert Checkpoint.open(path).digest == Checkpoint.open(parted).digest
    bring(model, [path / ODD])
    assert weights(web.gets) == {ODD: 1}
    assert (path / ODD).read_bytes() == (parted / ODD).read_bytes()


def test_where_parts_cannot_be_had_all_files_come(web_model: tuple[StubWeb, str], hub: StubHub, parted: Path) -> None:
    web, model = web_model
    web.whole = hub.whole = True
    for each, gets in ((model, web.gets), (MODEL, hub.gets)):
        path = local_model(each)
        assert weights(gets).keys() == set(FILES)
        assert files_at(path) == set(FILES)
        assert Checkpoint.open(path).digest == Checkpoint.open(parted).digest
        bring(each, [Path(path) / EVEN])


@pytest.mark.parametrize("status", [400, 405, 416, 501])
def test_who_refuses_to_give_parts_gives_all_files(
    web_model: tuple[StubWeb, str], hub: StubHub, parted: Path, status: int
) -> None:
    web, model = web_model
    web.partless = hub.partless = status
    for each in (model, MODEL):
        path = local_model(each)
        assert files_at(path) == set(FILES)
        assert Checkpoint.open(path).digest == Checkpoint.open(parted).digest


def test_a_part_that_does_not_come_is_asked_for_three_times(
    web_model: tuple[StubWeb, str], hub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("moe_serving.fetching.outline.again_after", pauses.append)
    web, model = web_model
    stubs: tuple[tuple[StubWeb | StubHub, str], ...] = ((web, model), (hub, MODEL))
    for each, source in stubs:
        each.failing = 2
        assert files_at(local_model(source)) == set()
        assert len(pauses) == 2
        pauses.clear()


def test_a_part_that_never_comes_is_told(
    web_model: tuple[StubWeb, str], hub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe_serving.fetching.outline.again_after", lambda seconds: None)
    web, model = web_model
    stubs: tuple[tuple[StubWeb | StubHub, str], ...] = ((web, model), (hub, MODEL))
    for each, source in stubs:
        each.failing = 10_000
        with pytest.raises(ModelError, match="503") as caught:
            local_model(source)
        assert caught.value.reason == "DownloadFailed"


def test_a_file_that_is_not_what_was_told_is_refused_by_name_and_tried_again(hub: StubHub) -> None:
    path = Path(local_model(MODEL))
    hub.wrong.add(ODD)
    with pytest.raises(ModelError, match=f"huggingFace.repo {REPOSITORY}: {ODD} came with checksum") as caught:
        bring(MODEL, [path / EVEN, path / ODD])
    assert caught.value.reason == "DownloadFailed"
    assert files_at(str(path)) == {EVEN}
    bring(MODEL, [path / EVEN, path / ODD])
    assert weights(hub.gets) == {EVEN: 1, ODD: 2}


def test_what_failed_keeps_nobody_from_other_files(hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "AGAIN_SECONDS", 60.0)
    path = Path(local_model(MODEL))
    hub.wrong.add(ODD)
    for _ in range(3):
        with pytest.raises(ModelError, match=f"{ODD} came with checksum"):
            bring(MODEL, [path / ODD])
    bring(MODEL, [path / EVEN])
    assert weights(hub.gets) == {EVEN: 1, ODD: 1}


def test_what_failed_keeps_nobody_from_starting(hub: StubHub) -> None:
    """What a start needs is there: it does not wait for a file that another process fetches meanwhile."""
    path = Path(local_model(MODEL))
    cache = Cache.of_environment()
    hub.wrong.add(ODD)
    with pytest.raises(ModelError, match=f"{ODD} came with checksum"):
        bring(MODEL, [path / ODD])
    listing = cache.listing(path.name)
    assert listing is not None
    assert listing.doubted
    for start in (local_text, local_model):
        started = threading.Thread(target=start, args=[MODEL])
        with cache.fetching(path.name):
            started.start()
            started.join(10)
            waits = started.is_alive()
        started.join(10)
        assert not waits, start.__name__
    bring(MODEL, [path / EVEN])
    listing = cache.listing(path.name)
    assert listing is not None
    assert not listing.doubted, "who fetches has asked again"


def test_all_is_there_whatever_ended_the_fetch_of_the_last_file(
    web_model: tuple[StubWeb, str],
) -> None:
    _, model = web_model
    path = Path(local_model(model))
    bring(model, [path / OTHERS, path / EVEN])

    def give_up(done: int, total: int) -> None:
        if (path / ODD).exists():
            raise InterruptedByTestError

    with pytest.raises(InterruptedByTestError):
        bring(model, [path / ODD], heard=give_up)
    assert files_at(str(path)) == set(FILES)
    cache = Cache.of_environment()
    assert cache.is_complete(path.name)
    (path.parent / f"{path.name}.complete").unlink()  # as if who fetched the last one had been killed
    bring(model, [path / ODD])
    assert cache.is_complete(path.name)


def test_a_removal_cut_short_leaves_nothing_that_tells_of_files(
    hub: StubHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(local_model(MODEL))
    for stream in caches._used.values():  # as if its process had ended
        stream.close()
    caches._used.clear()

    def cut_short(directory: Path) -> None:
        (directory / CONFIG).unlink()
        outline_of(directory / EVEN).unlink()
        raise InterruptedByTestError

    with monkeypatch.context() as once:
        once.setattr("moe_serving.fetching.cache.shutil.rmtree", cut_short)
        with pytest.raises(InterruptedByTestError):
            Cache(cache, 100_000_000).make_room("other", 99_999_999)
    assert not (path / CONFIG).exists()
    assert Checkpoint.open(local_model(MODEL)).digest


def test_a_file_that_is_gone_is_named(hub: StubHub) -> None:
    path = Path(local_model(MODEL))
    del hub.files[ODD]
    with pytest.raises(ModelError, match=f"(?s)huggingFace.repo {REPOSITORY} cannot be fetched: .*{ODD}"):
        bring(MODEL, [path / ODD])


def test_an_outline_that_was_wrong_is_made_anew(hub: StubHub, parted: Path) -> None:
    """Parts have no checksum: what shows it is the file itself."""
    path = Path(local_model(MODEL))
    outline = outline_of(path / EVEN)
    outline.write_bytes(outline.read_bytes().replace(b"BF16", b"BF17", 1))
    with pytest.raises(ModelError, match=f"the header or a sample of {EVEN} was another one when it was asked for"):
        bring(MODEL, [path / EVEN])
    local_model(MODEL)
    assert Checkpoint.open(path).digest == Checkpoint.open(parted).digest
    assert weights(hub.gets) == {EVEN: 1}


def test_other_parts_than_were_meant_make_another_digest(hub: StubHub, parted: Path) -> None:
    """So that whoever has the right ones is not asked by, and does not ask, who has them."""
    hub.spoilt.add(EVEN)
    path = Path(local_model(MODEL))
    assert Checkpoint.open(path).digest != Checkpoint.open(parted).digest
    hub.spoilt.clear()
    bring(MODEL, [path / ODD])
    with pytest.raises(ModelError, match=f"the header or a sample of {EVEN} was another one when it was asked for"):
        bring(MODEL, [path / EVEN])
    assert not Cache.of_environment().is_outlined(path.name)
    assert Checkpoint.open(local_model(MODEL)).digest == Checkpoint.open(parted).digest
    assert weights(hub.gets) == {EVEN: 1, ODD: 1}


def test_what_was_told_of_weights_is_asked_for_anew_where_it_is_doubted_and_not_all_the_time(
    hub: StubHub, parted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a replica whose digest is another one than the directory's."""
    hub.spoilt.add(EVEN)
    path = Path(local_model(MODEL))
    wrong, right = Checkpoint.open(path).digest, Checkpoint.open(parted).digest
    assert wrong != right
    renew_outline(MODEL)
    assert Checkpoint.open(local_model(MODEL)).digest == wrong
    hub.spoilt.clear()
    renew_outline(MODEL)
    assert Checkpoint.open(local_model(MODEL)).digest == wrong
    monkeypatch.setattr(fetch, "RENEW_SECONDS", 0.0)
    renew_outline(MODEL)
    assert Checkpoint.open(local_model(MODEL)).digest == right
    bring(MODEL, [path / name for name in FILES])
    renew_outline(MODEL)
    renew_outline(str(parted))
    assert weights(hub.gets) == dict.fromkeys(FILES, 1)
    assert Checkpoint.open(local_model(MODEL)).digest == right


def test_an_outline_stays_in_use_until_the_next_one_is_whole(
    hub: StubHub, parted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever keeps the model may be away, and a process may end at any moment."""
    monkeypatch.setattr("moe_serving.fetching.outline.again_after", lambda seconds: None)
    hub.spoilt.add(EVEN)
    path = Path(local_model(MODEL))
    wrong = Checkpoint.open(path).digest
    hub.spoilt.clear()
    hub.failing = 10_000
    with pytest.raises(ModelError, match="503"):
        renew_outline(MODEL)
    assert Checkpoint.open(local_model(MODEL)).digest == wrong
    hub.failing = 0
    replace = Path.replace
    replaced: list[str] = []

    def cut_short(source: Path, target: Path) -> Path:
        if source.name == SAMPLES_FILE:
            raise InterruptedByTestError
        replaced.append(source.name)
        return replace(source, target)

    with monkeypatch.context() as once:
        once.setattr(Path, "replace", cut_short)
        with pytest.raises(InterruptedByTestError):
            renew_outline(MODEL)
    assert len(replaced) == len(FILES)
    assert Checkpoint.open(local_model(MODEL)).digest == wrong
    renew_outline(MODEL)
    assert Checkpoint.open(local_model(MODEL)).digest == Checkpoint.open(parted).digest
    assert not (path / ".renewed").exists()
    assert weights(hub.gets) == {}


def test_a_header_that_promises_more_than_there_is(hub: StubHub) -> None:
    hub.files[EVEN] = hub.files[EVEN][:-4]
    with pytest.raises(ModelError, match=f"huggingFace.repo {REPOSITORY}: {EVEN} has .* bytes, its header") as caught:
        local_model(MODEL)
    assert caught.value.reason == "WeightsTruncated"


def test_long_headers_take_a_second_request(hub: StubHub, parted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_serving.fetching.outline._HEAD_BYTES", 20)
    assert Checkpoint.open(local_model(MODEL)).digest == Checkpoint.open(parted).digest


def test_a_model_is_one_entry_when_room_is_made(hub: StubHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is to have counts, files not asked for do not; and it goes as a whole."""
    path = Path(local_model(MODEL))
    small = sum(len(content) for name, content in hub.files.items() if name not in FILES)
    monkeypatch.setenv("MOE_MODEL_CACHE_BYTES", str(small + len(hub.files[OTHERS]) + (4 << 10)))
    bring(MODEL, [path / OTHERS])
    with pytest.raises(ModelError, match=rf"{path.name} takes \d+ bytes, and the cache .* may hold"):
        bring(MODEL, [path / EVEN])
    assert weights(hub.gets) == {OTHERS: 1}
    for stream in caches._used.values():  # as if its process had ended
        stream.close()
    caches._used.clear()
    Cache(cache, 100_000_000).make_room("other", 99_999_999)
    assert not path.exists()
    monkeypatch.delenv("MOE_MODEL_CACHE_BYTES")
    assert Checkpoint.open(local_model(MODEL)).digest


_PROCESS = """
import sys
from pathlib import Path
from moe_serving.fetching.fetch import bring, local_model
path = Path(local_model(sys.argv[1]))
bring(sys.argv[1], [path / name for name in sys.argv[2:]])
print(sorted(file.name for file in path.glob("*.safetensors")))
"""


@pytest.mark.slow
def test_processes_of_a_node_share_what_they_fetch(hub: StubHub) -> None:
    wanted = ([OTHERS, EVEN], [OTHERS, ODD])
    started = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, MODEL, *each], stdout=subprocess.PIPE, text=True)
        for each in wanted
    ]
    for process, each in zip(started, wanted, strict=True):
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert set(each) <= set(re.findall(r"[a-z]+\.safetensors", said))
    assert set(hub.gets.values()) == {1}
    assert Cache.of_environment().is_complete(Path(local_model(MODEL)).name)


def test_a_checkpoint_that_an_earlier_release_fetched_is_used(hub: StubHub, parted: Path, cache: Path) -> None:
    name = f"{REPOSITORY.replace('/', '--')}--{REVISION}"
    cache.mkdir()
    os.symlink(parted, cache / name)
    (cache / f"{name}.complete").touch()
    path = local_model(MODEL)
    bring(MODEL, [Path(path) / EVEN])
    assert not hub.gets
    assert not hub.parts


def test_room_is_made_by_the_sizes_that_are_told_now(
    hub: StubHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as after one of a page of errors was told in place of a file's."""
    small = sum(len(content) for name, content in hub.files.items() if name not in FILES)
    even = hub.files[EVEN]
    monkeypatch.setenv("MOE_MODEL_CACHE_BYTES", str(small + len(even) + 500))
    (cache / "old").mkdir(parents=True)
    (cache / "old" / "weights").write_bytes(bytes(900))
    hub.files[EVEN] = even[:-1000]
    path = Path(local_text(MODEL))
    hub.files[EVEN] = even
    with pytest.raises(ModelError, match=f"{EVEN} came with {len(even)} bytes, the hub tells of {len(even) - 1000}"):
        bring(MODEL, [path / EVEN])
    assert (cache / "old").exists()
    bring(MODEL, [path / EVEN])
    assert (path / EVEN).read_bytes() == even
    assert int((cache / f"{path.name}.size").read_text()) == small + len(even)
    assert not (cache / "old").exists()


def test_where_the_sizes_that_are_told_now_find_no_room_it_is_said(
    hub: StubHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = sum(len(content) for name, content in hub.files.items() if name not in FILES)
    even = hub.files[EVEN]
    monkeypatch.setenv("MOE_MODEL_CACHE_BYTES", str(small + len(even) - 500))
    hub.files[EVEN] = even[:-1000]
    path = Path(local_text(MODEL))
    hub.files[EVEN] = even
    for said in (f"{EVEN} came with", f"{path.name} takes {small + len(even)} bytes"):
        with pytest.raises(ModelError, match=said):
            bring(MODEL, [path / EVEN])
    gets = hub.gets[EVEN]
    with pytest.raises(ModelError, match=f"{path.name} takes"):
        bring(MODEL, [path / EVEN])
    assert hub.gets[EVEN] == gets, "what has no room is not fetched"


def test_a_size_that_was_told_too_large_is_asked_for_again(
    hub: StubHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = sum(len(content) for name, content in hub.files.items() if name not in FILES)
    even = hub.files[EVEN]
    monkeypatch.setenv("MOE_MODEL_CACHE_BYTES", str(small + len(even) + 500))
    hub.files[EVEN] = even + bytes(10_000)
    path = Path(local_text(MODEL))
    hub.files[EVEN] = even
    with pytest.raises(ModelError, match=f"{path.name} takes {small + len(even) + 10_000} bytes"):
        bring(MODEL, [path / EVEN])
    bring(MODEL, [path / EVEN])
    assert (path / EVEN).read_bytes() == even


def test_what_others_come_to_want_while_one_asks_anew_stays_wanted(hub: StubHub) -> None:
    path, cache = Path(local_model(MODEL)), Cache.of_environment()
    asked = cache.listing(path.name)
    assert asked is not None
    cache.want(path.name, [ODD])
    assert cache.keep_listing(path.name, asked).wanted == {ODD}
    listing = cache.listing(path.name)
    assert listing is not None
    assert listing.wanted == {ODD}
