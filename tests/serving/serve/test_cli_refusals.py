"""``moe-serve`` with arguments that cannot work: a message that names them, exit code 2, and nothing is started."""

import shutil
import socket
from pathlib import Path

import pytest
from calibrated import written

from moe_serving import cli
from moe_serving.checkpoint import inspect_model

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
        (
            ["--model", str(TINY), "--pairs-saved", "10"],
            "--pairs-saved 10: says how --adaptive-routing FILE is done; give both or neither",
        ),
        (["--model", str(TINY), "--max-loss-increase", "0.01"], "--max-loss-increase 0.01: says how"),
        (
            ["--model", str(TINY), "--adaptive-routing", "/c", "--pairs-saved", "60"],
            "pairs_saved: Input should be less than or equal to 50",
        ),
        (["--model", str(TINY), "--adaptive-routing", "/c", "--max-loss-increase", "0"], "max_loss_increase: Input"),
        (["--model", str(TINY), "--adaptive-routing", ""], "--adaptive-routing : calibration: String should have"),
        (
            ["--model", str(TINY), "--adaptive-routing", "/nowhere"],
            "--adaptive-routing: calibration /nowhere cannot be read: No such file or directory",
        ),
        (
            ["--model", str(TINY), "--adaptive-routing", "/nowhere", "--verify"],
            "--adaptive-routing /nowhere: --verify compares each layer with all that its gates chose; take one of",
        ),
        (
            ["--model", str(TINY), "--wire", "fp8", "--verify"],
            "--wire fp8: --verify compares each layer with the checkpoint bit for bit; take one of the two away",
        ),
        (["--model", str(TINY), "--wire", "int4"], "choose from"),
        (["--model", str(TINY), "--weights", "fp8", "--verify"], "--weights fp8: --verify compares each layer with"),
        (["--model", str(TINY), "--weights", "int4"], "choose from"),
        (["calibrate"], "the following arguments are required: --model, --text, --output"),
        (["calibrate", "--model", "/nowhere", "--text", "/t", "--output", "/o"], "model path /nowhere does not exist"),
        (
            ["calibrate", "--model", str(TINY), "--text", "/nowhere", "--output", "/o"],
            "--text /nowhere: No such file or directory; give files of text",
        ),
        (
            ["calibrate", "--model", str(TINY), "--text", "/dev/null", "--output", "/o"],
            "--text: 0 tokens are too short to calibrate on; give at least 32704 (64 windows of --window 512)",
        ),
        (
            ["calibrate", "--model", str(TINY), "--text", "/t", "--output", "/no/o"],
            "--output /no/o: there is no folder /no; make it first",
        ),
        (
            ["calibrate", "--model", str(TINY), "--text", "/t", "--output", "/o", "--window", "2000"],
            "--window 2000: must be 32 to 1024, the context of the model",
        ),
        (
            ["calibrate", "--model", str(TINY), "--text", "/t", "--output", "/o", "--most", "60"],
            "--most 60: must be above 0 and at most 50",
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


@pytest.mark.parametrize(
    ("facts", "options", "message"),
    [
        ({"digest": "sha256:ff"}, [], "is of another model, sha256:ff (6 layers, top 2), than is served, sha256:"),
        ({}, ["--pairs-saved", "40"], "pairsSaved 40 is beyond the 30 that calibration"),
        ({}, ["--pairs-saved", "20"], "maxLossIncrease 0.005 does not allow pairsSaved 20: on 8000 held-out tokens"),
    ],
    ids=str,
)
def test_a_calibration_that_does_not_allow_it(capsys, tmp_path, facts, options, message) -> None:
    path = written(tmp_path / "c.json", inspect_model(str(TINY), "auto").model_copy(update=facts))
    assert message in refusal(capsys, "--model", str(TINY), "--adaptive-routing", str(path), *options)


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
