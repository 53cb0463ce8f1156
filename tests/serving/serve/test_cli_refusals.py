"""``moe-serve`` with arguments that cannot work: a message that names them, exit code 2, and nothing is started."""

import shutil
import socket
from pathlib import Path

import pytest

from moe_serving import cli

TINY = Path(__file__).parents[3] / "models" / "tiny"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said on stderr; argparse ends the program by itself."""
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --model"),
        (["--model", "/nowhere"], "--model /nowhere: PathNotFound: model path /nowhere does not exist"),
        (["--model", str(TINY), "--shards", "0"], "--shards: '0' is not a whole number of at least 1"),
        (["--model", str(TINY), "--shards", "-2"], "argument --shards"),
        (["--model", str(TINY), "--shards", "2", "--copies", "3"], "3 copies of an expert need 3 shards"),
        (
            ["--model", str(TINY), "--api-replicas", "65"],
            "'65' is not a number of api processes, 1 to 64",
        ),
        (["--model", str(TINY), "--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--model", str(TINY), "--max-context", "1"], "--max-context 1: must be at least 2"),
        (["--model", str(TINY), "--port", "99999999"], "argument --port: '99999999' is not a port"),
        (["--model", str(TINY), "--host", "192.0.2.1"], "--host 192.0.2.1 --port 8000: cannot listen there"),
        (["--model", str(TINY), "--allowed-origin", "*"], "'*' is no origin as browsers send it"),
        (["--model", str(TINY), "--allowed-origin", "https://a.b:443"], "a port unless it is the scheme's own"),
        (["--model", str(TINY), "--queue-requests", "0"], "--queue-requests: '0' is not a whole number of at least 1"),
        (["--model", str(TINY), "--queue-tokens", "1"], "--queue-tokens: '1' is not a whole number of at least 2"),
        (["--model", str(TINY), "--record-traffic", ""], "--record-traffic : path: String should have at least 1"),
        (
            ["--model", str(TINY), "--record-traffic", "/tmp/r", "--record-bytes", "5"],
            "max_bytes: Input should be greater than or equal to 1048576",
        ),
        (
            ["--model", str(TINY), "--record-traffic", "/tmp/r", "--record-rows", "0"],
            "sample_rows: Input should be greater than or equal to 1",
        ),
        (["--model", str(TINY), "--generation-config", "auto"], "choose from"),
        (["--model", str(TINY), "--api-key-file", "/nowhere"], "--api-key-file /nowhere: No such file or directory"),
        (["--model", str(TINY), "--api-key-file", "/dev/null"], "--api-key-file /dev/null: has no key in it"),
    ],
    ids=str,
)
def test_arguments(capsys, arguments, message) -> None:
    assert message in refusal(capsys, *arguments)


@pytest.mark.parametrize("line", ["schlüssel".encode(), b"\xff\xfe", b"a\x00b", "a\u00a0b".encode()], ids=repr)
def test_a_key_that_no_client_could_show(capsys, tmp_path, line) -> None:
    """It would be accepted here and never match."""
    keys = tmp_path / "keys"
    keys.write_bytes(b"good\n\n" + line + b"\n")
    said = refusal(capsys, "--model", str(TINY), "--api-key-file", str(keys))
    assert "the key in line 3 has a character that clients cannot send" in said


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(b"\xef\xbb\xbfsk-1\r\nsk-2\r\n")
    assert cli._read_keys(keys) == ("sk-1", "sk-2")


def test_a_port_in_use(capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(capsys, "--model", str(TINY), "--port", str(port))
    assert f"--port {port}: cannot listen there" in said
    assert "choose another port" in said


def test_a_model_that_is_damaged(capsys, tmp_path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(TINY, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    said = refusal(capsys, "--model", str(broken))
    assert "WeightsTruncated" in said
    assert "model.safetensors" in said
