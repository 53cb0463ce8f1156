"""What a machine gives: bytes that are read, or sent by another process, by system calls on large buffers alone."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

BUFFER_BYTES = 8 << 20
CONNECT_S = 30.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What some bytes took: seconds by the clock, and of processors, of all processes that took part."""

    bytes: int
    seconds: float
    cpu: float


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Bytes ``[begin, end)`` of a file."""

    file: Path
    begin: int
    end: int


def merged(spans: Iterable[Span]) -> list[Span]:
    """In the order of the files, those that touch as one."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and (found[-1].file, found[-1].end) == (span.file, span.begin):
            found[-1] = Span(span.file, found[-1].begin, span.end)
        else:
            found.append(span)
    return found


def shares(spans: Sequence[Span], count: int) -> list[list[Span]]:
    """``spans`` cut into ``count`` parts of about as many bytes, in order."""
    total = sum(span.end - span.begin for span in spans)
    parts: list[list[Span]] = [[] for _ in range(count)]
    done = 0
    for span in spans:
        begin = span.begin
        while begin < span.end:
            part = min(done * count // total, count - 1)
            room = max(1, -(-total * (part + 1) // count) - done)
            end = min(span.end, begin + room)
            parts[part].append(Span(span.file, begin, end))
            done, begin = done + end - begin, end
    return parts


def forget(files: Iterable[Path]) -> None:
    """Have the page cache drop them, as far as the system does."""
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(spans: Sequence[Span], threads: int, *, keep: bool) -> Taken:
    """Read them once, in order, each thread its share.

    Args:
        keep: into as much memory, which is fresh, as what is to stay must be; else into one buffer, again and again.
    """
    parts = [part for part in shares(spans, threads) if part]
    size = sum(span.end - span.begin for span in spans)
    with ThreadPoolExecutor(threads) as pool:
        return taking(size, lambda: list(pool.map(partial(_read, keep=keep), parts)))


def taking(size: int, work: Callable[[], Any]) -> Taken:
    """What ``work``, all of this process, takes for ``size`` bytes."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return Taken(size, time.perf_counter() - begin, time.process_time() - cpu)


def _read(spans: Sequence[Span], keep: bool) -> None:
    size = sum(span.end - span.begin for span in spans)
    with mmap.mmap(-1, size if keep else min(size, BUFFER_BYTES)) as memory, memoryview(memory) as target:
        place = 0
        for span in spans:
            with span.file.open("rb") as stream:
                begin = span.begin
                while begin < span.end:
                    most = min(BUFFER_BYTES, span.end - begin)
                    got = os.preadv(stream.fileno(), [target[place : place + most]], begin)
                    if not got:
                        raise OSError(f"{span.file} ends at {begin}")
                    begin += got
                    place += got if keep else 0


def send(network: str, size: int) -> Taken:
    """So many bytes from another process by a socket, ``unix`` or ``tcp``, into fresh memory."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(network, size, theirs), daemon=True)
    process.start()
    try:
        with closing(socket.socket(_FAMILIES[network], socket.SOCK_STREAM)) as receiving:
            receiving.settimeout(CONNECT_S)
            if not ours.poll(CONNECT_S):
                raise TimeoutError(f"waited {CONNECT_S:g} s for a process that sends")
            receiving.connect(ours.recv())
            taken = taking(size, lambda: _receive(receiving, size))
            return Taken(size, taken.seconds, taken.cpu + ours.recv())
    finally:
        process.join(CONNECT_S)


_FAMILIES = {"unix": socket.AF_UNIX, "tcp": socket.AF_INET}


def _receive(receiving: socket.socket, size: int) -> None:
    with mmap.mmap(-1, size) as memory, memoryview(memory) as target:
        place = 0
        while place < size:
            got = receiving.recv_into(target[place : place + BUFFER_BYTES])
            if not got:
                raise OSError("the process that sends has ended")
            place += got


def _send(network: str, size: int, told: Connection) -> None:
    with socket.socket(_FAMILIES[network], socket.SOCK_STREAM) as listening:
        listening.settimeout(CONNECT_S)
        listening.bind(f"\0moe-loading-{os.getpid()}" if network == "unix" else ("127.0.0.1", 0))
        listening.listen(1)
        told.send(listening.getsockname())
        sending, _ = listening.accept()
        with sending:
            buffer = memoryview(bytes(BUFFER_BYTES))
            begin = time.process_time()
            for place in range(0, size, BUFFER_BYTES):
                sending.sendall(buffer[: size - place])
            told.send(time.process_time() - begin)
