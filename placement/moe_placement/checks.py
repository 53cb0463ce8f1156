"""Checks of what callers give, each raising one of the package's own errors that names field, value and cure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_placement.errors import PlacementError

Item = TypeVar("Item")

INT32 = 2**31 - 1
MOST_EXPERTS = 2**15 - 1
"""Expert ids are kept as int16."""
MOST_SEED = 2**128 - 1
"""Seeds drawn from content have 16 bytes."""
MOST_LOAD = 1e30
"""Loads are kept as float32 as well."""


def whole(error: type[PlacementError], name: str, value: object, least: int = 0, most: int = INT32) -> int:
    """``value`` as an int within ``least .. most``; a bool, a fraction and anything that is no number are refused."""
    try:
        number = None if isinstance(value, (bool, np.bool_)) else index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise error(f"{name} is {value!r}; it must be a whole number from {least} to {most}")
    return number


def wholes(
    error: type[PlacementError], name: str, values: Iterable[int], least: int = 0, most: int = INT32
) -> tuple[int, ...]:
    """Each of ``values`` as by ``whole``."""
    given = items(error, name, values)
    if all(type(n) is int and least <= n <= most for n in given):  # nearly always, and without a name for each
        return given
    return tuple(whole(error, f"{name}[{i}]", n, least, most) for i, n in enumerate(given))


def items(error: type[PlacementError], name: str, values: Iterable[Item]) -> tuple[Item, ...]:
    """The elements of ``values``; text and whatever has no elements is refused."""
    try:
        elements = None if isinstance(values, (str, bytes)) else tuple(values)
    except TypeError:
        elements = None
    if elements is None:
        raise error(f"{name} is {values!r}; it must be a list or another sequence")
    return elements


def real(
    error: type[PlacementError], name: str, value: object, least: float = 0.0, *, above: bool = False,
    most: float = math.inf,
) -> float:  # fmt: skip
    """``value`` as a finite float from ``least`` (``above`` it, if so asked) to ``most``."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        number = math.nan
    if not math.isfinite(number) or number < least or number > most or (above and number == least):
        bound = f"above {least:g}" if above else f"from {least:g} on" if most == math.inf else f"from {least:g}"
        bound += "" if most == math.inf else f" to {most:g}"
        raise error(f"{name} is {value!r}; it must be a finite number {bound}")
    return number


def truth(error: type[PlacementError], name: str, value: object) -> None:
    """Refuse anything but True and False: a text such as ``"no"`` would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise error(f"{name} is {value!r}; it must be True or False")


def instance(error: type[PlacementError], name: str, value: object, kind: type[Any]) -> None:
    """Refuse anything but a ``kind``."""
    if not isinstance(value, kind):
        raise error(f"{name} is {value!r}; it must be of type {kind.__name__}")


def new_file(error: type[PlacementError], path: str | Path, suffixes: Sequence[str] = ()) -> Path:
    """``path`` as one that a file can be written to, with one of ``suffixes`` where there are any."""
    if not isinstance(path, (str, Path)):
        raise error(f"path is {path!r}; it must be a str or a Path")
    target = Path(path)
    if suffixes and target.suffix not in suffixes:
        raise error(f"{path}: the name must end in {' or '.join(suffixes)}")
    if target.is_dir():
        raise error(f"{path} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise error(f"{path}: there is no folder {target.parent}; make it first")
    return target


def integers(error: type[PlacementError], name: str, values: ArrayLike, shape: str) -> NDArray[np.int64]:
    """``values`` as int64 with as many dimensions as ``shape`` (such as ``"[tokens, layers, k]"``) names.

    Ragged lists, fractions and numbers beyond int64 are refused, not rounded or wrapped.
    """
    array = _array(error, name, values, shape)
    if not np.issubdtype(array.dtype, np.integer) and array.size:
        raise error(f"{name} must be integers {shape}, got {array.dtype}")
    if array.size and array.dtype == np.uint64 and int(array.max()) > np.iinfo(np.int64).max:
        raise error(f"{name} hold {array.max()}, beyond any id")
    return array.astype(np.int64)


def ids(error: type[PlacementError], name: str, values: ArrayLike, shape: str, experts: int) -> NDArray[np.int64]:
    """``values`` as by ``integers``, each an expert's number or -1 for none."""
    array = integers(error, name, values, shape)
    if array.size and (array.min() < -1 or array.max() >= experts):
        raise error(f"{name} run from {array.min()} to {array.max()}; they must be within -1 .. {experts - 1}")
    return array


def floats(
    error: type[PlacementError], name: str, values: ArrayLike, shape: str, least: float = -math.inf,
    most: float = math.inf,
) -> NDArray[np.float64]:  # fmt: skip
    """``values`` as finite float64 within ``least .. most``, with as many dimensions as ``shape`` names."""
    array = _array(error, name, values, shape)
    if array.dtype.kind not in "iuf" and array.size:
        raise error(f"{name} must be numbers {shape}, got {array.dtype}")
    numbers = array.astype(np.float64)
    fit = np.isfinite(numbers) & (numbers >= least) & (numbers <= most)
    if not fit.all():
        wrong = tuple(np.argwhere(~fit)[0])
        bounds = "" if math.isinf(least) and math.isinf(most) else f" within {least:g} .. {most:g}"
        raise error(
            f"{name}[{', '.join(map(str, wrong))}] is {numbers[wrong]:g}; all of {shape} must be finite{bounds}"
        )
    return numbers


def loads(error: type[PlacementError], values: ArrayLike) -> NDArray[np.float64]:
    """Tokens that chose each expert, float64 ``[layers, experts]`` with at least one of both."""
    array = floats(error, "loads", values, "[layers, experts]", 0.0, MOST_LOAD)
    if not array.size:
        raise error(f"loads are of shape {array.shape}; at least one layer and one expert are needed")
    return array


def gates(error: type[PlacementError], values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Gate weights of ids of ``shape``."""
    most = float(np.finfo(np.float16).max)
    weights = floats(error, "gates", values, "[tokens, layers, k]", -most, most)
    if weights.shape != shape:
        raise error(f"gates must be shaped like ids {shape}, got {weights.shape}")
    return weights.astype(np.float16)


def experts_once(error: type[PlacementError], sets: NDArray[np.integer]) -> None:
    """Refuse sets ``[tokens, layers, k]`` or ``[tokens, k]`` in which an expert is chosen twice; -1 is none."""
    ordered = np.sort(sets, axis=-1)
    twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
    if twice.any():
        at = tuple(np.argwhere(twice)[0])
        where = ", ".join(f"{axis} {number}" for axis, number in zip(("token", "layer"), at[:-1], strict=False))
        raise error(f"{where}: expert {ordered[at]} is chosen twice in one set")


def _array(error: type[PlacementError], name: str, values: ArrayLike, shape: str) -> NDArray[np.generic]:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, TypeError, RuntimeError) as cause:  # ragged lists; tensors of a GPU
        raise error(f"{name} must be one array {shape}: {cause}") from None
    if array.ndim != shape.count(",") + 1:
        raise error(f"{name} must be {shape}, got an array of shape {array.shape}")
    return array
