"""A checkpoint from a hub on loopback: the same as on disk, fetched once, and told of where that fails."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_hub import REPOSITORY, REVISION, StubHub, files_of, running

from moe_contract.report import Fetched
from moe_serving.checkpoint import Checkpoint, ModelError
from moe_serving.directory.reporting import report_fetched
from moe_serving.fetching import fetch
from moe_serving.fetching.cache import Cache
from moe_serving.fetching.fetch import fetched, local_model
from moe_serving.fetching.store import sha256_of

MODEL = f"hf://{REPOSITORY}@{REVISION}"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    with running(StubHub(files_of(tiny) | {"README.md": b"no", "pytorch_model.bin": b"no"})) as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        yield stub


def test_it_is_the_checkpoint_on_disk(hub: StubHub, tiny: Path) -> None:
    path = local_model(MODEL)
    assert Checkpoint.open(path).digest == Checkpoint.open(tiny).digest
    assert not {"README.md", "pytorch_model.bin"} & set(hub.gets)
    before = hub.gets.copy()
    assert local_model(MODEL) == path
    assert hub.gets == before
    assert set(before.values()) == {1}


def test_how_much_is_there_is_told(hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetched(MODEL) is None
    hub.wrong.add(WEIGHTS)
    with pytest.raises(ModelError):
        local_model(MODEL)
    done, total = fetched(MODEL) or (0, 0)
    assert done == total - len(hub.files[WEIGHTS]) > 0
    assert report_fetched(MODEL) == Fetched(done=done, total=total)
    local_model(MODEL)
    assert fetched(MODEL) is None


def test_a_directory_stays_what_it_is(tiny: Path) -> None:
    assert local_model(str(tiny)) == str(tiny)
    assert fetched(str(tiny)) is None


def test_of_many_that_ask_at_once_one_fetches(hub: StubHub) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(local_model(MODEL))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert set(hub.gets.values()) == {1}


def test_a_download_cut_short_goes_on(hub: StubHub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.cut.add(WEIGHTS)
    assert Checkpoint.open(local_model(MODEL)).digest == Checkpoint.open(tiny).digest
    assert hub.gets[WEIGHTS] == 2


def test_a_wrong_checksum_is_told_and_tried_again(hub: StubHub) -> None:
    hub.wrong.add(WEIGHTS)
    with pytest.raises(ModelError, match=f"huggingFace.repo {REPOSITORY}: {WEIGHTS} came with checksum") as caught:
        local_model(MODEL)
    assert caught.value.reason == "DownloadFailed"
    local_model(MODEL)
    assert hub.gets[WEIGHTS] == 2
    assert hub.gets["config.json"] == 1


def test_what_is_whole_is_read_once_however_often_the_rest_fails(hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large models each look would take minutes."""
    other, index = "other.safetensors", "model.safetensors.index.json"
    del hub.files[WEIGHTS]
    hub.whole = True
    hub.files |= {"first.safetensors": b"first", other: b"other"}
    hub.files[index] = b'{"weight_map": {"a": "first.safetensors", "b": "other.safetensors"}}'
    read: list[str] = []

    def noted(file: Path) -> str:
        read.append(file.name)
        return sha256_of(file)

    monkeypatch.setattr("moe_serving.fetching.hub.sha256_of", noted)
    for _ in range(3):
        hub.wrong.add(other)
        with pytest.raises(ModelError, match=f"{other} came with checksum"):
            local_model(MODEL)
    path = Path(local_model(MODEL))
    assert (path / "first.safetensors").read_bytes() == b"first"
    assert read == ["first.safetensors", *[other] * 4]
    assert hub.gets["first.safetensors"] == 1


def test_what_failed_is_not_tried_again_at_once(hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "AGAIN_SECONDS", 60.0)
    hub.wrong.add(WEIGHTS)
    for _ in range(3):
        with pytest.raises(ModelError, match="came with checksum"):
            local_model(MODEL)
    assert hub.gets[WEIGHTS] == 1


def test_a_gated_model(hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with pytest.raises(ModelError, match=f"huggingFace.repo {REPOSITORY} is gated") as caught:
        local_model(MODEL)
    assert caught.value.reason == "AccessDenied"
    assert "which is not set here: a Secret that huggingFace.tokenSecretRef names" in str(caught.value)
    assert "HF_TOKEN of the nodes" in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(ModelError, match="which is another than the one that is set here") as caught:
        local_model(MODEL)
    assert "hf_another" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    local_model(MODEL)


def test_a_token_in_a_file_is_read_anew_each_time(
    hub: StubHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a Secret of Kubernetes is mounted: whoever corrects it need not start anything."""
    hub.token = "hf_secret"
    file = tmp_path / "token"
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(file))
    file.write_text("hf_wrong\n")
    with pytest.raises(ModelError, match="is gated"):
        local_model(MODEL)
    file.write_text("hf_secret\n")
    local_model(MODEL)


def test_a_signature_in_an_address_is_not_told(hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("403 for url 'https://cdn.example.org/a?Signature=abc&Expires=1'")

    monkeypatch.setattr("moe_serving.fetching.hub.hf_hub_download", refused)
    with pytest.raises(ModelError, match=r"OSError: 403 for url 'https://cdn\.example\.org/a\?…'"):
        local_model(MODEL)


@pytest.mark.parametrize(
    ("path", "reason", "said"),
    [
        (f"hf://team/other@{REVISION}", "AccessDenied", "huggingFace.repo team/other: the hub has no such repository"),
        (f"hf://{REPOSITORY}@{'0' * 40}", "DownloadFailed", "huggingFace.revision 0{40} is no commit of team/tiny"),
        (f"hf://{REPOSITORY}@main", "PathNotFound", "is no repository at a commit: write hf://"),
        ("hf://team@0", "PathNotFound", "is no repository at a commit"),
    ],
)
def test_what_is_not_there(hub: StubHub, path: str, reason: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        local_model(path)
    assert caught.value.reason == reason


def test_a_hub_that_does_not_answer(cache: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(ModelError, match=f"huggingFace.repo {REPOSITORY} cannot be fetched") as caught:
        local_model(MODEL)
    assert caught.value.reason == "DownloadFailed"


def test_a_hub_that_says_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait for who asks it, so that nobody waits for ever."""
    monkeypatch.setattr("moe_serving.fetching.hub._READ_SECONDS", 0.2)
    found: list[str] = []

    def ask() -> None:
        with pytest.raises(ModelError, match=f"huggingFace.repo {REPOSITORY} cannot be fetched: ReadTimeout") as caught:
            local_model(MODEL)
        found.append(caught.value.reason)

    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(5)
        in_time = not asking.is_alive()
    asking.join(30)
    assert in_time
    assert found == ["DownloadFailed"]


def test_an_index_that_names_what_is_not_there(hub: StubHub) -> None:
    del hub.files[WEIGHTS]
    hub.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "model-1-of-2.safetensors"}}'
    with pytest.raises(ModelError, match=r"has no model-1-of-2\.safetensors") as caught:
        local_model(MODEL)
    assert caught.value.reason == "WeightsMissing"


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (b"{}", r"\(KeyError\('weight_map'\)\)"),
        (b"no", r"\(JSONDecodeError\("),
        (b'{"weight_map": ["a"]}', r"\(AttributeError\("),
        (b" " * 101, r"\(it is larger than 100 bytes\)"),
    ],
)
def test_an_index_that_is_none(hub: StubHub, monkeypatch: pytest.MonkeyPatch, index: bytes, said: str) -> None:
    monkeypatch.setattr("moe_serving.checkpoint.tensors._MAX_HEADER_BYTES", 100)
    del hub.files[WEIGHTS]
    hub.files["model.safetensors.index.json"] = index
    expected = f"huggingFace.repo {REPOSITORY}: model.safetensors.index.json there is damaged {said}"
    with pytest.raises(ModelError, match=expected) as caught:
        local_model(MODEL)
    assert caught.value.reason == "WeightsMissing"


def test_room_is_made_of_what_nobody_uses(hub: StubHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(map(len, hub.files.values()))
    monkeypatch.setenv("MOE_MODEL_CACHE_BYTES", str(size + 1000))
    for name in ("old", "older"):
        (cache / name).mkdir(parents=True)
        (cache / name / "weights").write_bytes(b"x" * 900)
        (cache / f"{name}.used").touch()
        (cache / f"{name}.complete").touch()
    os.utime(cache / "older.used", (1, 1))
    local_model(MODEL)
    assert not (cache / "older").exists()
    assert not (cache / "older.complete").exists()
    assert (cache / "old" / "weights").exists()


def test_for_what_can_never_fit_nothing_is_removed(cache: Path) -> None:
    cache.mkdir()
    bound = Cache(cache, most=1000)
    for name in ("a", "b"):
        bound.make_room(name, 300)
        bound.complete(name)
    with bound.fetching("b"):
        for size, kept in ((1001, 300), (701, 300)):
            with pytest.raises(ModelError, match=rf"c takes {size} bytes, .* 1000, of which {kept} are of models in"):
                bound.make_room("c", size)
            assert bound.is_complete("a")
            assert bound.is_complete("b")
        bound.make_room("c", 700)
    assert not bound.directory("a").exists()
    assert bound.is_complete("b")


def test_what_a_process_uses_stays(hub: StubHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_MODEL_CACHE_BYTES", str(sum(map(len, hub.files.values()))))
    (cache / "old").mkdir(parents=True)
    (cache / "old" / "weights").write_bytes(b"x" * 9_000_000)
    holding = (
        "import fcntl, sys\n"
        "used = open(sys.argv[1], 'ab')\n"
        "fcntl.flock(used, fcntl.LOCK_SH)\n"
        "print('held', flush=True)\n"
        "input()"
    )
    command = [sys.executable, "-c", holding, str(cache / "old.used")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdin and user.stdout and user.stdout.readline() == "held\n"
        with pytest.raises(ModelError, match=r"may hold \d+, of which 9000000 are of models in use or on"):
            local_model(MODEL)
        user.stdin.write("\n")
    local_model(MODEL)
    assert not (cache / "old").exists()


def test_room_is_kept_for_what_is_being_fetched(cache: Path) -> None:
    """Of two at once the second has what the first leaves, though nothing of that is on the disk yet."""
    cache.mkdir()
    bound = Cache(cache, most=1000)
    with bound.fetching("first"):
        bound.make_room("first", 600)
        bound.make_room("second", 400)
        with pytest.raises(ModelError, match=r"second takes 401 bytes, .* of which 600 are of models in use or on"):
            bound.make_room("second", 401)
        bound.note_progress("first", 600, 600)
    bound.make_room("second", 401)  # given up, and used by nobody
    assert not bound.directory("first").exists()
    assert bound.progress("first") is None, "it begins anew"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MOE_MODEL_CACHE", "/proc/none", "the cache of models /proc/none cannot be used on a node: .*; set MOE_MODEL"),
        ("MOE_MODEL_CACHE_BYTES", "10G", "MOE_MODEL_CACHE_BYTES is '10G' on a node: write bytes in digits"),
    ],
)
def test_a_cache_that_cannot_be(
    cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ModelError, match=said) as caught:
        local_model(MODEL)
    assert caught.value.reason == "DownloadFailed"
    assert fetched(MODEL) is None
