"""Which tests run when: seen from what they use, enforced in the fast lane, and ended together."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import httpx2
import psutil
import pytest

from moe_dev.lanes.imports import Imports
from moe_dev.lanes.plugin import CHECK, CLUSTER, LANES
from moe_dev.lanes.rerun import says_little
from moe_dev.lanes.run import closing_line
from moe_dev.lanes.uses import Uses
from moe_dev.paths import CLONE

RUN_SECONDS = 250.0


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch.nn as nn", True),
        ("from package.deep import model", True),
        ("import package.deep.model", True),
        ("from package import light", False),
        ("def test():\n    import torch", False),
        ("import typing\nif typing.TYPE_CHECKING:\n    import torch", False),
        ("try:\n    import torch\nexcept ImportError:\n    pass", True),
        ("import pytest\ntorch = pytest.importorskip('torch')", True),
        ("class A:\n    from package import deep", False),
    ],
)
def test_what_a_file_imports_is_read_from_it_and_from_what_it_imports(tmp_path: Path, source: str, found: bool) -> None:
    write(tmp_path, package____init__="", package__light="import json", package__deep____init__="")
    write(tmp_path, package__deep__model="import package.light\nimport torch", asked=source)
    names = Imports([tmp_path]).of(tmp_path / "asked.py")
    assert ("torch" in {name.partition(".")[0] for name in names}) is found


def each_lane(folder: Path, *lanes: str, options: Sequence[str] = ()) -> dict[str, str]:
    """What pytest prints of these lanes of a folder of its own, with this repository's settings.

    One process for all, since each would import pytest and its plugins anew; the fast lane, which forbids from then on,
    comes last.
    """
    settings = ["-c", str(CLONE / "pyproject.toml"), "-p", "no:cacheprovider", "-q", *options, str(folder)]
    script = f"import pytest\nfor lane in {lanes}: print('lane', lane), pytest.main([f'--lane={{lane}}', *{settings}])"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    shown = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True, timeout=RUN_SECONDS)
    _, *parts = re.split(r"^lane (\w+)$", shown, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.slow
def test_the_fast_lane_refuses_what_takes_long_however_it_comes_about(tmp_path: Path) -> None:
    (tmp_path / "etcd").write_text("#!/bin/sh\n")
    (tmp_path / "etcd").chmod(0o755)
    write(
        tmp_path,
        torch="",
        test_it="""
            import subprocess
            from pathlib import Path

            import pytest

            ETCD = str(Path(__file__).with_name("etcd"))

            def test_lazily():
                import torch

            def test_swallowed():
                try:
                    import torch
                except Exception:
                    pass

            def test_control_plane():
                subprocess.run(["nice", ETCD])

            @pytest.mark.e2e
            def test_marked():
                subprocess.run(["nice", ETCD])

            def test_version():
                subprocess.run([ETCD, "--version"])

            def test_nothing():
                pass
        """,
    )
    shown = each_lane(tmp_path, CLUSTER, CHECK)
    assert "3 failed, 2 passed, 1 deselected" in shown[CHECK], shown[CHECK]
    assert "imports torch: mark it pytest.mark.torch" in shown[CHECK]
    assert "starts etcd: mark it pytest.mark.e2e" in shown[CHECK]
    assert "1 passed, 5 deselected" in shown[CLUSTER]


@pytest.mark.slow
def test_each_test_is_in_one_lane_by_what_it_uses(tmp_path: Path) -> None:
    write(
        tmp_path,
        conftest="""
            import pytest

            @pytest.fixture
            def controlplane(): pass

            @pytest.fixture
            def ray_cluster(controlplane): pass

            @pytest.fixture
            def plane(ray_cluster): pass

            @pytest.fixture
            def checkpoint_of(): pass
        """,
        test_it="""
            import pytest

            def test_fast(): pass
            def test_plane(plane): pass
            def test_controlplane(controlplane): pass
            def test_checkpoint(checkpoint_of): pass

            @pytest.mark.slow
            def test_slow(): pass

            @pytest.mark.ray
            def test_own_ray(): pass

            @pytest.mark.waits
            def test_minutes(controlplane): pass
        """,
        test_heavy="""
            import pytest, torch

            def test_torch(): pass

            @pytest.mark.alone
            def test_figures(controlplane): pass
        """,
        torch="",
    )
    found = {
        lane: {line.partition("::")[2] for line in shown.splitlines() if "::" in line}
        for lane, shown in each_lane(tmp_path, *LANES[::-1], options=["--collect-only"]).items()
    }
    assert found == {
        "check": {"test_fast"},
        "alone": {"test_figures"},
        "ray": {"test_plane"},
        "cluster": {"test_controlplane"},
        "waits": {"test_minutes", "test_own_ray"},
        "rest": {"test_checkpoint", "test_slow", "test_torch"},
    }


@pytest.mark.parametrize(
    ("source", "may"),
    [
        ("def test(x): pass", False),
        ("import pytest\npytestmark = [pytest.mark.slow, pytest.mark.e2e]", True),
        ("import pytest\nROWS = [pytest.param(1, marks=pytest.mark.e2e)]", True),
        ("async def test(cluster): pass", True),
        ("class TestIt:\n    def test(self, kube): pass", True),
        ("def test(shared): pass", True),
        ("def test(below): pass", False),
        ("import pytest\n@pytest.fixture\ndef own(kube): pass\ndef test(own): pass", True),
        ("import pytest\n@pytest.mark.usefixtures('kube')\ndef test(): pass", True),
        ("def test():\n    cluster = kube = 'e2e'", False),
        ("def helper(kube): pass", False),
    ],
)
def test_what_a_file_may_have_for_a_lane_is_read_from_it(tmp_path: Path, source: str, may: bool) -> None:
    fixture = "import pytest\n@pytest.fixture\n"
    write(tmp_path, conftest=f"{fixture}def cluster(): pass\n@pytest.fixture()\ndef kube(cluster): pass")
    write(tmp_path, shared=f"{fixture}def shared(kube): pass", below__conftest=f"{fixture}def below(kube): pass")
    write(tmp_path, below__test_there="def test(below): pass", beside__test_asked=source)
    uses = Uses(tmp_path, ["e2e"], ["cluster"])
    assert uses.may_be_in(tmp_path / "below" / "test_there.py")
    assert uses.may_be_in(tmp_path / "beside" / "test_asked.py") is may


def test_what_tests_start_can_be_interrupted_though_they_are_run_in_the_background(tmp_path: Path) -> None:
    """A script's shell starts `make test &` with the signal ignored, and whatever that starts would ignore it too."""
    write(
        tmp_path,
        test_it="""
            import signal, subprocess, sys

            def test_child():
                child = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT))"]
                said = subprocess.run(child, capture_output=True, text=True, check=True).stdout
                assert "default_int_handler" in said
                signal.raise_signal(signal.SIGINT)
        """,
    )
    script = f"{sys.executable} -m pytest -c {CLONE / 'pyproject.toml'} -p no:cacheprovider -q {tmp_path} & wait $!"
    ended = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


TWO_LANES = """
    import pytest, subprocess

    @pytest.mark.ray
    def test_on_ray():
        {ray}

    @pytest.mark.slow
    def test_slow():
        {slow}
"""


# Each lane is a pytest that imports for seconds, which take minutes at the niceness of a lane inside a lane.
OF_TWO = """
import sys
from moe_dev.lanes import run
run.SLOW = [[run.Part(name, name) for name in (run.WAITS, run.REST)]]
sys.exit(run.main(sys.argv[1:]))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OF_TWO, "-c", str(CLONE / "pyproject.toml"), "-q", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=CLONE)


def lanes(folder: Path, ray: str, slow: str) -> subprocess.Popen[str]:
    write(folder, test_it=TWO_LANES.format(ray=ray, slow=slow))
    return start(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slow", "code", "odd", "closing"),
    [
        ("pytest.skip('it rains')", 0, ": it rains", " 1 passed, 1 skipped in "),
        ("assert not 'this'", 1, "test_slow - AssertionError: assert not 'this'", " 1 failed, 1 passed in "),
    ],
)
def test_the_lanes_end_as_one_run_of_all(tmp_path: Path, slow: str, code: int, odd: str, closing: str) -> None:
    with lanes(tmp_path, "pass", slow) as running:
        output = running.communicate(timeout=RUN_SECONDS)[0]
    assert running.returncode == code, output
    *before, told, last = output.splitlines()
    assert closing in last
    assert told.endswith(odd)
    titles = {line[:12].rstrip(" |") for line in before}
    assert titles == {"waits", "rest"}


FAILS_ONCE = """
    import pathlib, pytest

    @pytest.mark.slow
    def test_slow():
        seen = pathlib.Path(__file__ + '.seen')
        if not seen.exists():
            seen.touch()
            pytest.fail('waited 30 s for a token')

    @pytest.mark.ray
    def test_other():
        {other}
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "code", "closing"),
    [
        ("pass", 0, " 1 rerun, 1 passed in "),
        ("assert False", 1, " 2 failed in "),
        ("import os; os._exit(1)", 1, " 1 failed in "),
    ],
)
def test_what_says_little_runs_again_alone_where_nothing_else_failed(
    tmp_path: Path, other: str, code: int, closing: str
) -> None:
    write(tmp_path, test_it=FAILS_ONCE.format(other=other))
    with start(tmp_path) as running:
        output = running.communicate(timeout=RUN_SECONDS)[0]
    assert running.returncode == code, output
    *_, told, last = output.splitlines()
    assert closing in last
    assert (told.startswith("RERUN, passed alone: ") and told.endswith("::test_slow")) == (code == 0)


@pytest.mark.parametrize(
    ("error", "little"),
    [
        (TimeoutError(), True),
        (subprocess.TimeoutExpired("kubectl", 5), True),
        (httpx2.ReadTimeout("read"), True),
        (AssertionError("waited 4.5 s for a pod\nassert 3 < 2"), True),
        (AssertionError("it ended with 1:\nException: The current node timed out during startup. This could"), True),
        (AssertionError("ray ended with 1: RuntimeError: Timed out waiting for node info for node_id=993e."), True),
        (ExceptionGroup("two", [pytest.PytestUnraisableExceptionWarning(), TimeoutError()]), True),
        (ExceptionGroup("two", [pytest.PytestUnraisableExceptionWarning(), AssertionError("3 == 4")]), False),
        (AssertionError("assert [3, 4] == [3, 5]"), False),
        (AssertionError("wrong: waited 4 s for a pod"), False),
        (ValueError("timeout"), False),
    ],
)
def test_what_was_judged_stands(error: BaseException, little: bool) -> None:
    assert says_little(error) is little


@pytest.mark.long
@pytest.mark.slow
def test_an_interrupt_ends_both_lanes(tmp_path: Path) -> None:
    waits = "print(flush=True); open(__file__ + {0!r}, 'w').close(); subprocess.run(['sleep', '600'])"
    with lanes(tmp_path, waits.format("ray"), waits.format("slow")) as running:
        deadline = time.monotonic() + RUN_SECONDS
        while len(list(tmp_path.glob("test_it.py?*"))) < 2:
            assert running.poll() is None
            assert time.monotonic() < deadline, "the lanes have not come to their tests"
            time.sleep(0.1)
        family = psutil.Process(running.pid).children(recursive=True)
        assert len(family) >= 4
        running.send_signal(signal.SIGINT)
        assert running.wait(RUN_SECONDS) == 128 + signal.SIGINT
    assert not psutil.wait_procs(family, 10)[1]


def test_the_closing_line_is_pytests() -> None:
    counts = {"passed": 3, "failed": 1, "deselected": 7, "error": 1}
    assert closing_line(counts, 3723.4).strip("= ") == "1 failed, 3 passed, 1 error in 3723.40s (1:02:03)"
    assert closing_line({}, 1.0).strip("= ") == "no tests ran in 1.00s (0:00:01)"
