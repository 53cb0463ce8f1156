"""Checks of what callers give, each raising one of the package's own errors that names field, value and cure."""

from __future__ import annotations

import math
from operator import index

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_placement.errors import PlacementError

INT32 = 2**31 - 1
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


def real(
    error: type[PlacementError], name: str, value: object, least: float = 0.0, *, above: bool = False,
    most: float = math.inf,
) -> float:  # fmt: skip
    """``value`` as a finite float from ``least`` (``above`` it, if so asked) to ``most``."""
    try:
        number = math.nan if isinstance(value, (bool, np.bool_, str)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < least or number > most or (above and number == least):
        bound = f"above {least:g}" if above else f"from {least:g} on" if most == math.inf else f"from {least:g}"
        bound += "" if most == math.inf else f" to {most:g}"
        raise error(f"{name} is {value!r}; it must be a finite number {bound}")
    return number


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


def experts_once(error: type[PlacementError], sets: NDArray[np.integer]) -> None:
    """Refuse sets ``[tokens, layers, k]`` in which an expert is chosen twice; -1 is none."""
    ordered = np.sort(sets, axis=2)
    twice = (ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] >= 0)
    if twice.any():
        token, layer, position = np.argwhere(twice)[0]
        raise error(
            f"token {token}, layer {layer}: expert {ordered[token, layer, position]} is chosen twice in one set"
        )


def _array(error: type[PlacementError], name: str, values: ArrayLike, shape: str) -> NDArray[np.generic]:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as cause:  # lists of unequal length, mostly
        raise error(f"{name} must be one array {shape}: {cause}") from None
    if array.ndim != shape.count(",") + 1:
        raise error(f"{name} must be {shape}, got an array of shape {array.shape}")
    return array
