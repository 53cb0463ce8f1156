"""Nothing outlives its owner: processes below a guard, the control plane, Ray."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from moe_dev.processes import Guarded, HopelessError, ProcessError, port_or_free
from moe_serving.standalone.ports import PORTS, free_ports

OWNER = Path(__file__).with_name("owner.py")
HACK = Path(__file__).parents[2] / "hack"
# guard's poll, its grace and the kernel's time for a hundred exits on a busy machine.
GONE_SECONDS = 60.0


def alive(pids: list[int]) -> list[str]:
    """The names of those that run: a zombie is dead, its parent has only not looked yet."""
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{pid} {process.name()}")
        except psutil.NoSuchProcess:
            continue
    return found


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while rest := alive(pids):
        assert time.monotonic() < deadline, f"waited {GONE_SECONDS:.0f} s for them to go after their owner: {rest}"
        time.sleep(0.1)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("what", "at_least"),
    [("stubborn", 4), ("controlplane", 6), pytest.param("ray", 8, marks=pytest.mark.ray)],
)
def test_killed_owner_leaves_no_orphan(what: str, at_least: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(HACK)}
    with subprocess.Popen([sys.executable, OWNER, what], stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) >= at_least
        assert len(alive(pids)) >= at_least - 1  # the stubborn one's second child is gone by itself
        owner.send_signal(signal.SIGKILL)
    wait_gone(pids)


def test_exit_code_and_output_of_a_command(tmp_path: Path) -> None:
    process = Guarded.start("talker", ["sh", "-c", "echo words; exit 7"], tmp_path / "log")
    assert process.wait(20) == 7
    assert process.log_tail() == "words\n"
    process.stop()
    assert process.exit_code == 7


def test_its_folder_goes_with_a_command(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    process = Guarded.start("sleeper", ["sleep", "600"], tmp_path / "log", remove=folder)
    assert folder.exists()
    process.stop()  # at once: the guard may not even have started the command
    assert process.exit_code == 0
    assert not folder.exists()


def test_crash_is_seen_as_one(tmp_path: Path) -> None:
    process = Guarded.start("sleeper", ["sh", "-c", "echo up; sleep 600 & sleep 600"], tmp_path / "log")
    process.wait_until("the shell", lambda: None if process.log_tail() else "silent", 20)
    below = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(below) == 3
    process.kill()
    assert process.exit_code == 128 + signal.SIGKILL
    wait_gone(below)


def test_missing_program_is_an_exit_code(tmp_path: Path) -> None:
    process = Guarded.start("nobody", ["/no/such/program"], tmp_path / "log")
    assert process.wait(20) == 127
    assert "/no/such/program: No such file" in process.log_tail()


def test_waiting_says_what_for_and_shows_the_log(tmp_path: Path) -> None:
    process = Guarded.start("short", ["sh", "-c", "echo last words; exit 3"], tmp_path / "log")
    with pytest.raises(ProcessError, match=r"(?s)short ended with 3 while waiting for the moon; .*last words"):
        process.wait_until("the moon", lambda: "not up", 20)
    process.stop()
    slow = Guarded.start("slow", ["sleep", "600"], tmp_path / "slow.log")
    with pytest.raises(ProcessError, match="waited 0 s for the moon: not up"):
        slow.wait_until("the moon", lambda: "not up", 0.2)
    slow.stop()
    assert slow.exit_code == 0


def test_what_waiting_cannot_mend_ends_the_wait_at_once(tmp_path: Path) -> None:
    process = Guarded.start("server", ["sh", "-c", "echo up; exec sleep 600"], tmp_path / "log")
    process.wait_until("the shell", lambda: None if process.log_tail() else "silent", 20)

    def refused() -> str | None:
        raise HopelessError("the token is refused")

    with pytest.raises(ProcessError, match=r"(?s)waiting for an answer is of no use: the token is refused; .*up"):
        process.wait_until("an answer", refused, 600)
    storage = Guarded.start("storage", ["sh", "-c", "echo disk full; exit 3"], tmp_path / "storage.log")
    with pytest.raises(ProcessError, match=r"(?s)storage ended with 3 while waiting for an answer; .*disk full"):
        process.wait_until("an answer", lambda: "nobody there", 600, beside=[storage])
    process.stop()
    storage.stop()


def test_free_ports_are_distinct_and_out_of_the_kernels_range() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(port in PORTS for port in ports)
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(PORTS) < first_of_kernel


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_in_use_is_left_alone(address: str) -> None:
    (wanted,) = free_ports(1)
    with port_or_free(wanted) as port:
        assert port == wanted
    with socket.create_server((address, wanted)), port_or_free(wanted) as port:
        assert port != wanted


def test_a_port_that_somebody_will_listen_on_is_given_to_nobody_else() -> None:
    (wanted,) = free_ports(1)
    with port_or_free(wanted) as port, port_or_free(wanted) as second:
        assert port == wanted != second
    with port_or_free(wanted) as port:
        assert port == wanted
