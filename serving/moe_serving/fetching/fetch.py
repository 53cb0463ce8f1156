"""The directory of a model, wherever it is kept: fetched by the first process of a node that asks; others wait.

Of weights in several files, at a source that gives parts of them, ``local_model`` has what a checkpoint is opened with,
and ``bring`` the files that a process needs, when it needs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from moe_contract.applications import ModelArgs
from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.locality import goes_with_pod
from moe_serving.fetching.asking import Cached
from moe_serving.fetching.cache import Cache, unusable
from moe_serving.fetching.keeper import Heard, Keeper
from moe_serving.fetching.locks import TRY_SECONDS
from moe_serving.fetching.source import Source, source_of

AGAIN_SECONDS = 15.0
"""Before a process asks again for what it could not have: whoever needs a model asks every few seconds."""

_failed: dict[tuple[Source, str], tuple[float, ModelError]] = {}
"""By source and file, or what else was asked for."""

RENEW_SECONDS = 600.0
"""Before what was told of weights is doubted again: it is some hundred requests, and may be right."""

_renewed: dict[Source, float] = {}


def local_model(path: str) -> str:
    """A directory as it is; of what is kept elsewhere (``source``) the one in this node's cache, which
    ``Checkpoint.open`` can read: with all its files, or without weights that ``bring`` has.

    Waits for as long as the fetch takes. What it returns stays for as long as this process lives.

    Raises:
        ModelError: PathNotFound, WeightsMissing, WeightsTruncated, DownloadFailed or AccessDenied.
    """
    return _local(path, _outline)


def local_text(path: str) -> str:
    """As ``local_model``, of which only configuration and tokenizer are needed."""
    return _local(path, lambda source, keeper, cache: None)


def local_args(model: ModelArgs) -> ModelArgs:
    """The same model by a directory of this node; see ``local_model``."""
    path = local_model(model.path)
    return model if path == model.path else model.model_copy(update={"path": path})


def bring(path: str, files: Collection[Path], expected: Collection[Path] = (), heard: Heard = lambda *_: None) -> None:
    """Have files with weights of the model at ``path`` in the directory that ``local_model`` gave.

    Waits for as long as that takes. A file that has come stays, whatever becomes of the others.

    Args:
        files: in that directory.
        expected: others that will be asked for next: room is made for them, and they count in what is told.
        heard: is told how much of all that processes of this node have asked for is there; what it raises ends it.

    Raises:
        ModelError: WeightsMissing, DownloadFailed or AccessDenied, with the name of the file.
    """
    source = _source(path)
    if source is None:
        return
    cache = Cache.of_environment()
    if cache.is_complete(source.directory):
        return
    directory = cache.directory(source.directory)
    names, later = ({str(file.relative_to(directory)) for file in each} for each in (files, expected))
    keeper = Keeper(source, cache)
    if keeper.lacking(names):
        with _once_in_a_while(source, cache, "room"):
            keeper.want(names | later, heard)
    _fetch(source, keeper, cache, names, heard)


def ask_for_all(path: str, cached: Cached = Cached.HERE) -> None:
    """Whether the weights of a model that ``local_model`` has given can be had, but for those that are ``cached``.

    Waits until who keeps them has been asked for a byte of each file, some minutes at most; of a model whose files are
    all cached nobody is asked.

    Raises:
        ModelError: WeightsMissing, WeightsTruncated, DownloadFailed or AccessDenied, with the name of the file.
    """
    source = _source(path)
    if source is None or cached is Cached.EVERYWHERE:
        return
    cache = Cache.of_environment()
    is_lost = cached is Cached.NOWHERE and goes_with_pod(cache.path)
    if is_lost or not cache.is_complete(source.directory):
        with _once_in_a_while(source, cache, "all"):
            Keeper(source, cache).ask_for_all(also_there=is_lost)


def renew_outline(path: str) -> None:
    """Ask anew for what ``local_model`` gave in place of weights, which may be wrong: parts of files have no checksum.
    Once in ``RENEW_SECONDS`` only; what has been opened by it stays as it is, and so does the outline where another one
    cannot be had.

    Raises:
        ModelError: WeightsMissing, WeightsTruncated, DownloadFailed or AccessDenied.
    """
    source = _source(path)
    if source is None or time.monotonic() - _renewed.get(source, float("-inf")) < RENEW_SECONDS:
        return
    cache = Cache.of_environment()
    if not cache.is_complete(source.directory):
        with _once_in_a_while(source, cache, "another outline"):
            Keeper(source, cache).renew_outline()
        _renewed[source] = time.monotonic()


def fetched(path: str) -> tuple[int, int] | None:
    """Bytes of a model that are on this node, and all that it is to have; None where it is not being fetched."""
    try:
        source = source_of(path)
        return Cache.of_environment().progress(source.directory) if source else None
    except (ValueError, ModelError):
        return None  # told by ``local_model``


def _source(path: str) -> Source | None:
    try:
        return source_of(path)
    except ValueError as error:
        raise ModelError("PathNotFound", str(error)) from error


def _local(path: str, have: Callable[[Source, Keeper, Cache], None]) -> str:
    """``have`` what is needed beyond configuration and tokenizer."""
    source = _source(path)
    if source is None:
        return path
    cache = Cache.of_environment()
    cache.use(source.directory)
    if not cache.is_complete(source.directory):
        keeper = Keeper(source, cache)
        with _once_in_a_while(source, cache, "listing"):
            keeper.listing()
        have(source, keeper, cache)
    return str(cache.directory(source.directory))


def _outline(source: Source, keeper: Keeper, cache: Cache) -> None:
    with _once_in_a_while(source, cache, "outline"):
        if keeper.outline():
            return
        names = {file.name for file in keeper.listing().weights}
        keeper.want(names)
    _fetch(source, keeper, cache, names, lambda *_: None)


def _fetch(source: Source, keeper: Keeper, cache: Cache, names: Collection[str], heard: Heard) -> None:
    try:
        for number, name in enumerate(keeper.lacking(names)):
            if number:
                time.sleep(2 * TRY_SECONDS)  # who waits for the lock has it in between
            with _once_in_a_while(source, cache, name):
                keeper.fetch(name, heard)
    finally:  # whatever ended it, and whoever brought the last file
        keeper.finish()


@contextmanager
def _once_in_a_while(source: Source, cache: Cache, what: str) -> Iterator[None]:
    """What failed is not tried again at once, however often it is asked for."""
    failed_at, why = _failed.get((source, what), (float("-inf"), None))
    if why is not None and time.monotonic() - failed_at < AGAIN_SECONDS:
        raise ModelError(why.reason, str(why))
    try:
        yield
    except (ModelError, OSError) as error:
        told = error if isinstance(error, ModelError) else unusable(cache.path, error)
        _failed[source, what] = (time.monotonic(), told)
        raise told from error
