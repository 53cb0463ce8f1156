"""A checkpoint from a folder on a web server, or in an object store, on loopback."""

import hashlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from stub_hub import files_of
from stub_web import ACCESS, FOLDER, SECRET, StubWeb, running

from moe_dev.pki import Authority, KeyPair
from moe_serving.checkpoint import Checkpoint, ModelError
from moe_serving.fetching import web as client
from moe_serving.fetching.fetch import local_model
from moe_serving.fetching.source import Folder
from moe_serving.fetching.web import refused

WEIGHTS = "model.safetensors"


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyPair:
    """Of a server that is trusted."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    return authority.server()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models may be kept on this node, and nobody waits between two requests."""
    monkeypatch.setattr(client, "again_after", lambda seconds: None)
    monkeypatch.setenv("MOE_MODEL_LOOPBACK", "1")


@pytest.fixture
def web(tiny: Path, cache: Path, pair: KeyPair, here: None) -> Iterator[StubWeb]:
    """By https."""
    with running(StubWeb(files_of(tiny) | {"README.md": b"no"}), pair) as stub:
        yield stub


@pytest.fixture
def store(tiny: Path, cache: Path, here: None) -> Iterator[StubWeb]:
    """By http, as stores within a cluster answer."""
    with running(StubWeb(files_of(tiny))) as stub:
        yield stub


def give(monkeypatch: pytest.MonkeyPatch, folder: Path, **files: str) -> None:
    """As Kubernetes mounts a Secret."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    monkeypatch.setenv("MOE_MODEL_SECRET", str(folder))


def told(path: str) -> str:
    with pytest.raises(ModelError) as caught:
        local_model(path)
    return f"{caught.value.reason}: {caught.value}"


def test_it_is_the_checkpoint_on_disk_and_is_fetched_once(web: StubWeb, tiny: Path) -> None:
    path = local_model(web.https)
    assert Checkpoint.open(path).digest == Checkpoint.open(tiny).digest
    assert "README.md" not in web.gets
    assert local_model(web.https) == path
    assert set(web.gets.values()) == {1}
    assert not list(Path(path).glob("*.part"))


def test_a_token_goes_there_and_nowhere_else(
    web: StubWeb, pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.token = "t0ken"
    assert told(web.https).startswith(f"AccessDenied: download.url {web.url}/models/tiny%201: SHA256SUMS is answered")
    assert "download.secretRef" in told(web.https)
    give(monkeypatch, tmp_path / "secret", token="t0ken")
    with running(StubWeb({"config.json": web.files["config.json"]}), pair) as other:
        web.moved["config.json"] = f"{other.url}/{FOLDER.replace(' ', '%20')}/config.json"
        local_model(web.https)
    assert other.authorizations == ["", ""]  # of HEAD and GET
    assert set(web.authorizations[2:]) == {"Bearer t0ken"}


@pytest.mark.parametrize("whole", [False, True], ids=["goes on within a file", "has no ranges"])
def test_a_download_cut_short_goes_on(web: StubWeb, tiny: Path, whole: bool) -> None:
    size = len(web.files[WEIGHTS])
    web.cut[WEIGHTS], web.whole = 3, whole
    assert Checkpoint.open(local_model(web.https)).digest == Checkpoint.open(tiny).digest
    assert (web.gets[WEIGHTS], web.sent[WEIGHTS] <= size) == (4, not whole)


def test_one_that_stays_cut_short_is_told_and_goes_on_later(web: StubWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = web.files[WEIGHTS]
    monkeypatch.setattr(client, "_TRIES", 2)
    web.cut[WEIGHTS] = 2
    assert f"{WEIGHTS} came with {len(whole) * 3 // 4} bytes after 2 requests, {len(whole)} were told of" in told(
        web.https
    )
    local_model(web.https)
    assert web.sent[WEIGHTS] == len(whole)


def test_what_came_of_something_longer_is_thrown_away(web: StubWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a page of errors with status 200 in the file's place."""
    whole = web.files[WEIGHTS]
    web.files[WEIGHTS], web.cut[WEIGHTS] = whole * 4, 1
    with monkeypatch.context() as once:
        once.setattr(client, "_TRIES", 1)
        assert f"came with {len(whole) * 2} bytes after 1 requests" in told(web.https)
    web.files[WEIGHTS] = whole
    local_model(web.https)


def test_a_server_that_sends_nothing_is_given_up(web: StubWeb) -> None:
    web.files["tokenizer.json"] = b"x"  # one byte, of which the first half is none
    web.cut["tokenizer.json"] = 100
    assert "tokenizer.json is cut short: 0 of 1 bytes came" in told(web.https)
    assert web.gets["tokenizer.json"] == 4


def test_a_wrong_checksum_is_told_and_tried_again(web: StubWeb) -> None:
    web.wrong.add(WEIGHTS)
    assert f"DownloadFailed: download.url {web.url}/models/tiny%201: {WEIGHTS} came with another checksum" in told(
        web.https
    )
    local_model(web.https)
    assert (web.gets[WEIGHTS], web.gets["config.json"]) == (2, 1)


def test_other_sums_than_were_meant_are_told(web: StubWeb) -> None:
    meant = web.https
    web.files["SHA256SUMS"] += b"\n"
    said = told(meant)
    assert "DownloadFailed: download.sha256 is " in said
    assert "has another: give what sha256sum SHA256SUMS prints there if" in said
    assert web.sha256 not in said  # whoever writes an object learns nothing of what it is not told of already
    assert set(web.gets) == {"SHA256SUMS"}


@pytest.mark.parametrize(
    "line",
    ["0" * 64 + "  ../config.json", "0" * 64 + "  /etc/passwd", "0" * 63 + "  a", "0" * 64 + "  a\\nb", "words"],
)
def test_lines_that_are_no_checksums_are_told(web: StubWeb, line: str) -> None:
    web.files["SHA256SUMS"] = line.encode()
    assert "SHA256SUMS has the line" in told(web.https)


def test_sums_larger_than_any_are_not_read(web: StubWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_serving.fetching.folder._MOST_SUMS_BYTES", 100)
    assert "SHA256SUMS is larger than 100 bytes" in told(web.https)


def test_a_folder_without_sums_is_told_how_to_make_them(web: StubWeb) -> None:
    path = web.https
    del web.files["SHA256SUMS"]
    assert "SHA256SUMS is answered with 404 Not Found; it needs a file SHA256SUMS: sha256sum * > SHA256SUMS" in told(
        path
    )


def test_redirections_have_rules(web: StubWeb, store: StubWeb) -> None:
    sums = "SHA256SUMS"
    web.moved[sums] = f"{store.url}/{FOLDER}/{sums}"
    assert "SHA256SUMS is redirected from https to http, to localhost: that is not followed" in told(web.https)
    web.moved[sums] = "https://169.254.169.254/latest/meta-data/iam?secret=1"
    assert "SHA256SUMS leads to 169.254.169.254, which is 169.254.169.254, an address that nodes have" in told(
        web.https
    )
    web.moved[sums] = f"{web.url}/{FOLDER}/{sums}"
    assert "SHA256SUMS is redirected more than 5 times" in told(web.https)
    web.files["moved"] = web.files[sums]
    web.moved[sums] = f"{web.url}/{FOLDER.replace(' ', '%20')}/moved"
    local_model(web.https)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::168.63.129.16",
        "2002:a9fe:a9fe::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "64:ff9b::127.0.0.1",
    ],
)
def test_what_nodes_have_for_themselves_is_not_asked(address: str) -> None:
    assert refused(address)
    assert refused(address, loopback=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_asked_only_where_that_may_be(address: str) -> None:
    assert refused(address)
    assert refused(address, loopback=True) is None


@pytest.mark.parametrize("address", ["10.1.2.3", "fd00::1", "64:ff9b::10.1.2.3"])
def test_others_are_asked(address: str) -> None:
    assert refused(address) is None


def test_the_node_itself_is_asked_only_where_who_runs_it_says_so(
    web: StubWeb, store: StubWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOE_MODEL_LOOPBACK")
    for path in (web.https, store.s3, store.s3.replace("localhost", "127.0.0.1")):
        assert "an address that nodes have for themselves (loopback," in told(path)
    assert not web.gets + store.gets
    assert not web.authorizations + store.authorizations


def resolve(monkeypatch: pytest.MonkeyPatch, **names: list[str]) -> None:
    """Names of ``example.org`` to addresses, of which the last one stays."""
    real = socket.getaddrinfo

    def found(host: str, port: int, *args: Any, **more: Any) -> Any:
        addresses = names.get(str(host).removesuffix(".example.org"))
        if not addresses:
            return real(host, port, *args, **more)
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return real(address, port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_a_name_that_comes_to_mean_the_node_is_sent_nothing(
    store: StubWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked up twice: to be judged, and to be connected to."""
    resolve(monkeypatch, rebound=["10.1.2.3", "127.0.0.1"])
    give(monkeypatch, tmp_path / "secret", accessKeyId=ACCESS, secretAccessKey=SECRET)
    said = told(store.s3.replace("localhost", "rebound.example.org"))
    assert "leads to rebound.example.org, which is 127.0.0.1, an address that nodes have" in said
    assert not store.authorizations


def test_no_redirection_leads_to_the_node(store: StubWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where models may be kept on it."""
    resolve(monkeypatch, elsewhere=["10.1.2.3"])
    sent = httpx2.Client.send

    def send(self: httpx2.Client, request: httpx2.Request, **more: Any) -> httpx2.Response:
        if request.url.host != "elsewhere.example.org":
            return sent(self, request, **more)
        answer = httpx2.Response(302, headers={"Location": f"{store.url}/{FOLDER}/SHA256SUMS"}, request=request)
        answer.next_request = httpx2.Request("GET", answer.headers["Location"])
        return answer

    monkeypatch.setattr(httpx2.Client, "send", send)
    path = store.s3.replace("localhost", "elsewhere.example.org")
    assert "leads to localhost, which is" in told(path)
    assert not store.authorizations


def test_a_proxy_may_be_on_the_node(store: StubWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers here for the server that it is asked for."""
    resolve(monkeypatch, elsewhere=["10.1.2.3"])
    monkeypatch.setenv("http_proxy", store.url.replace("localhost", "127.0.0.1"))
    for variable in ("MOE_MODEL_LOOPBACK", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    local_model(store.s3.replace("localhost", "elsewhere.example.org"))


def test_a_store_is_asked_with_signatures(
    store: StubWeb, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store.signed = "us-east-1"
    assert told(store.s3).startswith("AccessDenied: download.url s3://models/tiny%201: SHA256SUMS is answered with 403")
    give(monkeypatch, tmp_path / "secret", accessKeyId=ACCESS, secretAccessKey="another")
    assert told(store.s3).startswith("AccessDenied: ")
    give(monkeypatch, tmp_path / "secret", secretAccessKey=SECRET)
    assert Checkpoint.open(local_model(store.s3)).digest == Checkpoint.open(tiny).digest
    assert "Signature" not in caplog.text


def test_a_store_that_lets_everybody_in_is_asked_without(store: StubWeb, tiny: Path) -> None:
    assert Checkpoint.open(local_model(store.s3)).digest == Checkpoint.open(tiny).digest


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("https://storage.googleapis.com", "us-east-1"),
        ("http://minio:9000", "us-east-1"),
    ],
)
def test_the_region_is_in_the_endpoint(endpoint: str, region: str) -> None:
    assert Folder("s3://a/b", "0" * 64, endpoint).region == region


@pytest.mark.parametrize(
    "path",
    [
        "https://example.org/tiny",
        "https://example.org/tiny#sha256=12",
        f"https://example.org/tiny#sha256={'0' * 64}&endpoint=https://b",
        f"s3://bucket/tiny#sha256={'0' * 64}",
        f"s3://bucket/ti ny#sha256={'0' * 64}&endpoint=https://b",
    ],
)
def test_what_is_no_folder_is_told(cache: Path, path: str) -> None:
    assert told(path).startswith("PathNotFound: ")
    assert "write https://… or s3://…" in told(path)


def test_what_is_written_is_read() -> None:
    """As the operator writes it: ``tests/contract/test_model_source.py``."""
    zeros, ones = "0" * 64, "1" * 64
    assert Folder.parse(f"https://a/b%20c#sha256={zeros}") == Folder("https://a/b%20c", zeros)
    store = Folder("s3://a/b", ones, "http://c:1")
    assert Folder.parse(f"s3://a/b#sha256={ones}&endpoint=http%3A%2F%2Fc%3A1") == store


def test_a_cache_on_a_full_or_broken_disk_is_told(web: StubWeb, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moe_serving.fetching.web.Web._append", full)
    assert f"DownloadFailed: the cache of models {cache} cannot be used on a node: No space left" in told(web.https)


def test_the_checksum_is_that_of_all_files(web: StubWeb) -> None:
    path = local_model(web.https)
    for name in ("config.json", WEIGHTS):
        assert hashlib.sha256((Path(path) / name).read_bytes()).hexdigest().encode() in web.files["SHA256SUMS"]
