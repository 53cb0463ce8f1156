"""The directory of a model, wherever it is kept: fetched by the first process of a node that asks; others wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from moe_contract.applications import ModelArgs
from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.tensors import INDEX_FILE, weight_map
from moe_serving.fetching.cache import Cache, unusable
from moe_serving.fetching.files import first_files, has_index, weight_files
from moe_serving.fetching.source import Source, source_of
from moe_serving.fetching.store import store_of

AGAIN_SECONDS = 15.0
"""Before a process asks again for what it could not have: whoever needs a model asks every few seconds."""

NOTE_SECONDS = 1.0
"""Between two notes of how much of a file is there."""

_failed: dict[Source, tuple[float, ModelError]] = {}


def local_model(path: str) -> str:
    """A directory as it is; of what is kept elsewhere (``source``) the one in this node's cache, fetched if need be.

    Waits for as long as the fetch takes. What it returns stays for as long as this process lives.

    Raises:
        ModelError: PathNotFound, WeightsMissing, DownloadFailed or AccessDenied.
    """
    try:
        source = source_of(path)
    except ValueError as error:
        raise ModelError("PathNotFound", str(error)) from error
    if source is None:
        return path
    cache = Cache.of_environment()
    cache.use(source.directory)
    if not cache.is_complete(source.directory):
        with cache.fetching(source.directory):
            _fetch_once(source, cache)
    return str(cache.directory(source.directory))


def fetched(path: str) -> tuple[int, int] | None:
    """Bytes of a model that are on this node, and all; None where it is not being fetched."""
    try:
        source = source_of(path)
        return Cache.of_environment().progress(source.directory) if source else None
    except (ValueError, ModelError):
        return None  # told by ``local_model``


def _fetch_once(source: Source, cache: Cache) -> None:
    """Unless it is there by now; what failed is not tried again at once, however often it is asked for."""
    failed_at, why = _failed.get(source, (float("-inf"), None))
    if why is not None and time.monotonic() - failed_at < AGAIN_SECONDS:
        raise ModelError(why.reason, str(why))
    if cache.is_complete(source.directory):
        return
    try:
        _fetch(source, cache)
    except (ModelError, OSError) as error:
        told = error if isinstance(error, ModelError) else unusable(cache.path, error)
        _failed[source] = (time.monotonic(), told)
        raise told from error


def local_args(model: ModelArgs) -> ModelArgs:
    """The same model by a directory of this node; see ``local_model``."""
    path = local_model(model.path)
    return model if path == model.path else model.model_copy(update={"path": path})


def _fetch(source: Source, cache: Cache) -> None:
    store = store_of(source)
    names = store.names()
    directory = cache.directory(source.directory)
    first = [store.file(name) for name in first_files(names)]
    done = sum(file.size for file in first)
    cache.make_room(source.directory, done)
    for file in first:  # the index among them
        store.fetch(file, directory, lambda count: None)
    index = _read_index(source, directory) if has_index(names) else {}
    wanted = weight_files(names, index)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ModelError(
            "WeightsMissing",
            f"{source} has no {missing[0]:.200}, which its {INDEX_FILE} names: take another one",
        )
    weights = [store.file(name) for name in wanted]
    total = done + sum(file.size for file in weights)
    cache.make_room(source.directory, total)
    cache.note_progress(source.directory, done, total)
    for file in weights:
        store.fetch(file, directory, _noting(cache, source, done, total))
        done += file.size
        cache.note_progress(source.directory, done, total)
    cache.complete(source.directory)


def _noting(cache: Cache, source: Source, before: int, total: int) -> Callable[[int], None]:
    """Notes progress within a file, once in ``NOTE_SECONDS`` at most."""
    noted_at = float("-inf")

    def note(count: int) -> None:
        nonlocal noted_at
        now = time.monotonic()
        if now - noted_at >= NOTE_SECONDS:
            noted_at = now
            cache.note_progress(source.directory, before + count, total)

    return note


def _read_index(source: Source, directory: Path) -> dict[str, str]:
    try:
        return weight_map(directory / INDEX_FILE)
    except ValueError as error:
        raise ModelError(
            "WeightsMissing", f"{source}: {INDEX_FILE} there is damaged ({error}): take another one"
        ) from error
