"""The third part of `make demo`: a shard is killed with SIGKILL while a stream runs, and the stream goes on."""

import os
import signal
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from moe_contract.report import DirectoryReport, ShardReport
from moe_dev.demo_client import GREEDY, settled_report, stream_completion
from moe_dev.demo_run import Demo, DemoError
from moe_dev.progress import elapsed, say, waiting

PROMPT = "    def __init__(self, name, value):\n"
TOKENS = 160
KILL_AFTER = 50
RETURN_SECONDS = 300.0


def lose_a_shard(demo: Demo) -> None:
    """Stream the same greedy answer twice, the second time with a shard killed amid it, and compare."""
    url = demo.url
    say(f"asking {url} for {TOKENS} tokens, and then for the same with a shard killed on the way")
    expected: list[str] = []
    stream_completion(url, demo.name, PROMPT, TOKENS, expected.append, GREEDY)
    report = settled_report(demo.report)
    victim = max(report.shards, key=lambda shard: shard.pairs)
    gaps, killed = _stream_with_a_loss(demo, url, victim, "".join(expected))
    usual = sorted(gaps)[len(gaps) // 2]
    say(f"the stream went on to its end, token for token as before: longest gap {max(gaps):.2f} s, usual {usual:.3f} s")
    _wait_back(demo, victim, killed)


def _stream_with_a_loss(demo: Demo, url: str, victim: ShardReport, expected: str) -> tuple[list[float], float]:
    """Seconds between its pieces, and when the shard was killed; DemoError where it is not as `expected`."""
    times, pieces = [time.monotonic()], 0
    said, killed = "", 0.0

    def show(text: str) -> None:
        nonlocal pieces, said, killed
        times.append(time.monotonic())
        print(text, end="", flush=True)
        pieces, said = pieces + 1, said + text
        if pieces == KILL_AFTER:
            _kill(victim)
            killed = elapsed()

    print(f"\n{PROMPT}", end="", flush=True)
    stream_completion(url, demo.name, PROMPT, TOKENS, show, GREEDY)
    print("\n")
    if pieces < KILL_AFTER:
        raise DemoError(f"{url} answered with {pieces} pieces only, and no shard was killed")
    if said != expected:
        raise DemoError(f"the answer is another than without the loss: {said!r} and not {expected!r}")
    return [after - before for before, after in pairwise(times)], killed


def _kill(victim: ShardReport) -> None:
    """SIGKILL to its process, if that is what the report says: another may have its number by now."""
    command = Path(f"/proc/{victim.pid}/cmdline")
    if not command.exists() or b"ray::ServeReplica" not in command.read_bytes():
        raise DemoError(f"process {victim.pid}, by the report shard {victim.index}, is no replica of Ray Serve here")
    try:
        os.kill(victim.pid, signal.SIGKILL)
    except OSError as error:
        raise DemoError(f"process {victim.pid} of shard {victim.index} cannot be killed: {error}") from error
    print(f"⟨kill -9 {victim.pid}: shard {victim.index}⟩", end="", flush=True)


def _wait_back(demo: Demo, victim: ShardReport, killed: float) -> None:
    """Until the shard has another process and all its experts again."""
    with waiting(f"shard {victim.index} to be back"):
        while (shard := _returned(_report(demo), victim)) is None:
            demo.check()
            if elapsed() - killed > RETURN_SECONDS:
                late = f"shard {victim.index} is not back {RETURN_SECONDS:.0f} s after its loss"
                raise DemoError(f"{late}: see .demo/*.log")
            time.sleep(0.5)
    say(
        f"shard {shard.index} is back as process {shard.pid} with {shard.held} expert copies, "
        f"{elapsed() - killed:.0f} s after its death"
    )


def _report(demo: Demo) -> DirectoryReport | None:
    """None where it cannot be had at the moment."""
    with suppress(DemoError):
        return demo.report()
    return None


def _returned(report: DirectoryReport | None, victim: ShardReport) -> ShardReport | None:
    """The shard as another process that has all its experts; None while there is none."""
    for shard in report.shards if report else ():
        if shard.index == victim.index and shard.incarnation != victim.incarnation and shard.phase == "Ready":
            return shard if shard.held >= shard.wanted > 0 else None
    return None
