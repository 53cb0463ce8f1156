"""Whether files that are still to be fetched can be had, asked before anything is given up for them.

Of each its last byte is asked for: that says that it is there, as long as was told, and given to this process. What is
in it only its checksum tells, once it comes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto

from moe_serving.checkpoint.errors import ModelError
from moe_serving.fetching.files import RemoteFile
from moe_serving.fetching.outline import AT_ONCE, Read, persistent
from moe_serving.fetching.source import Source
from moe_serving.fetching.store import Store

ASK_SECONDS = 300.0
"""For all files; one that was asked for by then may take three requests more."""


class Cached(Enum):
    """Which files of a model need not be asked for, since nodes have them and keep them."""

    HERE = auto()
    """Those on this node."""
    EVERYWHERE = auto()
    """All: every node that needs them has them, and its processes start there anew."""
    NOWHERE = auto()
    """None: nodes go with what runs, and their caches with them, as far as these are no volumes of their own."""


def ask_for(store: Store, source: Source, files: Sequence[RemoteFile]) -> None:
    """
    Raises:
        ModelError: WeightsMissing, WeightsTruncated, DownloadFailed or AccessDenied, with the name of the file.
    """
    read, end = persistent(store.read), time.monotonic() + ASK_SECONDS

    def ask(file: RemoteFile) -> None:
        if time.monotonic() >= end:
            raise ModelError(
                "DownloadFailed",
                f"{source}: {ASK_SECONDS:.0f} s were not enough to ask for a byte of each of {len(files)} files; it is "
                "tried again",
            )
        try:
            _ask_for_one(store, read, source, file)
        except ModelError as error:
            raise ModelError(
                error.reason, f"{file.name} cannot be had, so nothing is given up for this model: {error}"
            ) from error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(ask, files):
            pass


def _ask_for_one(store: Store, read: Read, source: Source, file: RemoteFile) -> None:
    if file.size and read(file, file.size - 1, file.size) is not None:
        return
    # It gives no parts, or has become shorter: so its size is asked for.
    if file.name not in store.names():
        raise ModelError("WeightsMissing", f"{source} does not have it any more")
    size = store.file(file.name).size
    if size != file.size:
        raise ModelError("WeightsTruncated", f"{source} has {size} bytes of it, and told of {file.size} before")
