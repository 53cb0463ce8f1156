"""The command line: what is loaded for it, what it refuses by itself, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from fake_cluster import FakeCluster, moe, xp

from moe_dev.paths import CLONE
from moe_operator.kubectl import main as module
from moe_operator.kubectl.exits import Exit, UnreachableError
from moe_operator.kubectl.main import main
from moe_operator.kubectl.rights import RIGHTS, role_of

HEAVY = {"kopf", "kubernetes", "aiohttp", "pydantic", "numpy", "scipy", "yaml", "moe_placement", "moe_contract", "http"}


def test_no_command_loads_what_takes_long() -> None:
    # Counted, not timed: a time would say more of the machine. All commands are in what main imports.
    code = "import sys, moe_operator.kubectl.main; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100)
    assert not HEAVY & set(done.stdout.split())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster(moe(3), xp(2), xp(3, "Active"), xp(4, "Proposed", "Pending"))
    monkeypatch.setattr(module, "Cluster", lambda options: fake)
    return fake


def test_an_answer_is_for_people_or_for_scripts(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["approve", "tiny", "4"]) == Exit.DONE
    assert "tiny-r4 is approved" in capsys.readouterr().out
    assert main(["explain", "-o", "json", "tiny", "4"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["decision"] == "Approved"


JSON = {
    # command, what follows it, what its answer tells
    "status": ("tiny", {"name": "tiny", "pending": [4]}),
    "placement": ("tiny", {"revision": 3, "runs": True}),
    "top": ("tiny", {"name": "tiny", "load": None}),
    "proposals": ("tiny", [2, 3, 4]),
    "explain": ("tiny 3", {"revision": 3, "decision": "Approved"}),
    "diff": ("tiny 2 3", {"from": 2, "to": 3}),
    "approve": ("tiny 4", {"revision": 4, "decision": "Approved"}),
    "reject": ("tiny 4", {"revision": 4, "decision": "Rejected"}),
    "rollback": ("tiny 2", {"revision": 5, "decision": "Approved", "contentOf": 2}),
    "pause": ("tiny", {"name": "tiny", "paused": True}),
    "resume": ("tiny", {"name": "tiny", "paused": False}),
    "drain": ("tiny 1", {"name": "tiny", "draining": "1"}),
}


@pytest.mark.parametrize("command", module._COMMANDS)
def test_every_command_answers_scripts(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    former = xp(2, layers=["3 2 1 0 - -", "0 1 2 3 - -"])
    fake = FakeCluster(moe(3), former, xp(3, "Active"), xp(4, "Proposed", "Pending"))
    monkeypatch.setattr(module, "Cluster", lambda options: fake)
    arguments, tells = JSON[command]
    assert main([command, *arguments.split(), "-o", "json"]) == Exit.DONE
    told = capsys.readouterr()
    assert (told.err, told.out.isascii()) == ("", True)
    answer = json.loads(told.out)
    if isinstance(tells, list):
        assert [each["revision"] for each in answer] == tells
    else:
        assert {name: answer[name] for name in tells} == tells


def test_an_error_is_on_one_line_and_its_code_says_which(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "tiny", "9"]) == Exit.NOT_THERE
    cluster.faults = {"get": [UnreachableError("no\nanswer\x1b[1m")]}
    assert main(["explain", "tiny", "4"]) == Exit.UNREACHABLE
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[1] == r"error: no\nanswer\x1b[1m"


@pytest.mark.parametrize(
    "line",
    [
        "", "nothing", "approve", "approve tiny", "approve tiny 1 2", "approve Tiny 1", "approve -- -x 1",
        "diff tiny 1", "drain tiny one", "drain tiny -1", "status tiny -o yaml", "status a/b", "top", "top tiny --url http://x",
        "top tiny --api-key-file f", "top --url ftp://x", "top --url http://x --api-key-file /nowhere",
        "rollback tiny 1 2", "pause", "approve tiny none", "drain tiny",
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_meant(line: str, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(line.split())
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == Exit.USAGE
    assert "error: " in capsys.readouterr().err
    assert cluster.done == []


def test_options_stand_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fake = FakeCluster(moe(3), xp(1), xp(2, layers=["3 2 1 0 - -", "0 1 2 3 - -"]), xp(3, "Active"))
    monkeypatch.setattr(module, "Cluster", lambda options: seen.extend(options) or fake)
    assert main(["rollback", "tiny", "-n", "team", "2", "--context=c", "--kubeconfig", "f"]) == Exit.DONE
    assert seen == ["--namespace=team", "--context=c", "--kubeconfig=f"]


def test_a_reader_that_has_gone_is_no_error() -> None:
    code = "import sys; from moe_operator.kubectl.main import _print; sys.exit(_print('x' * 1000000))"
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as output:
        done = subprocess.run([sys.executable, "-c", code], stdout=output, stderr=subprocess.PIPE, timeout=100)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


DOCUMENT = CLONE / "docs" / "kubectl.md"


def test_the_document_names_the_rights_of_each_command() -> None:
    rows = re.findall(r"^\| `([a-z]+)[^`]*` \| (.*?) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    told = {name: (rights, roles) for name, rights, roles in rows if name in RIGHTS}
    assert told.keys() == RIGHTS.keys() == module._COMMANDS.keys()
    for name, rights in RIGHTS.items():
        assert re.findall(r"(\w+) `(\w+)`", told[name][0]) == [(each.verb, each.resource) for each in rights]
        assert re.findall(r"`([\w-]+)`", told[name][1]) == sorted({role_of(each) for each in rights})


def test_the_document_names_all_exit_codes() -> None:
    told = re.findall(r"^\| (\d+) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert [int(each) for each in told] == [int(each) for each in Exit]
