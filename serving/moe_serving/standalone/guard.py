"""Runs one command and lets nothing of it outlive the process that asked for it. Linux, standard library only.

Started by `guarded` as `python -IS guard.py OWNER_PID GRACE_SECONDS FOLDER COMMAND…`, with a pipe as its standard input
that only the owner holds open. End of file there means stop, be it asked for or the owner's death (SIGKILL included);
FOLDER, unless it is empty, is then removed. SIGUSR1 means SIGKILL for the command. The guard is the subreaper of the
command, so processes that the command left behind, in whatever session they are, come to it and end with it. Should the
guard itself be killed, the command gets SIGKILL from the kernel.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time

CRASH = signal.SIGUSR1
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# The owner may have been forked without exec, and its child then holds the pipe open: its death is also polled for.
POLL_SECONDS = 0.25
# What SIGKILL has not ended by then hangs in the kernel, and no signal will end it.
KILL_SECONDS = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _start(command: list[str]) -> int:
    guard = os.getpid()
    # A signal to the new group that came before the command's own handling would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        # Both sides do it, so that the group exists for either as soon as it goes on.
        with contextlib.suppress(PermissionError):  # the child was faster and runs the command
            os.setpgid(child, child)
        return child
    try:
        os.setpgid(0, 0)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before the line above
            os._exit(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number in (*ENDING, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _descendants() -> list[int]:
    """All live processes below this one, by one pass over /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _reap() -> dict[int, int]:
    """Exit codes (128 + signal for a killed one) of the children that ended."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[pid] = code if code >= 0 else 128 - code


def _kill_rest() -> None:
    deadline = time.monotonic() + KILL_SECONDS
    while (rest := _descendants()) and time.monotonic() < deadline:
        for pid in rest:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)
        _reap()


def _told_to_stop(owner: int, stopping: list[bool]) -> bool:
    readable, _, _ = select.select([0], [], [], POLL_SECONDS)
    return bool(stopping) or os.getppid() != owner or (bool(readable) and os.read(0, 1) == b"")


def main(owner: int, grace: float, folder: str, command: list[str]) -> int:
    """The exit code of the command; 0 where it was told to stop and did."""
    stopping: list[bool] = []
    for number in ENDING:
        signal.signal(number, lambda *_: stopping.append(True))
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = _start(command)
    signal.signal(CRASH, lambda *_: os.kill(child, signal.SIGKILL))
    while not _told_to_stop(owner, stopping):
        ended = _reap()
        if child in ended:
            _kill_rest()
            return ended[child]
    os.killpg(child, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while child not in _reap() and time.monotonic() < deadline:
        time.sleep(0.05)
    _kill_rest()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
