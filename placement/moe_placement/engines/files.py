"""Files that hold what vLLM keeps in memory or sends over HTTP, and expert maps of both engines, read as arrays.

- vLLM's responses with ``--enable-return-routed-experts`` (``vllm/entrypoints/openai/completion/protocol.py``):
  ``choices[].routed_experts`` is the base64 of a ``.npy`` file ``[tokens, layers, k]``; in 0.21 it is nested lists, and
  the prompt's are ``prompt_routed_experts`` beside ``choices``. As a file: one response, a list of them, or one a line.
  Or arrays themselves, one a request: ``.npy``, ``.npz``.
- Maps: ``{"physical_to_logical_map": [[...], ...]}`` in JSON, as SGLang's ``--init-expert-location`` reads it; an array
  of this name in ``.npz``; a single array in ``.npy``; or what torch saved under this name, or as the last one of
  SGLang's recording (``last_physical_to_logical_map``).
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import integers
from moe_placement.engines.torchfile import read_torch_file
from moe_placement.errors import InvalidPlacementError, InvalidTraceError
from moe_placement.traces.archive import DAMAGE, SINGLE, read_arrays

MAP = "physical_to_logical_map"
_ROUTED = "[tokens, layers, k]"


def read_vllm_outputs(path: str | Path) -> list[NDArray[np.int64]]:
    """``routed_experts`` of each request, int64 ``[tokens, layers, k]``, for ``recordings.trace_from_vllm``.

    The choices of one response share a prompt, and so are one array.

    Raises:
        InvalidTraceError: no file of the kinds above, or no request in it that was recorded.
        OSError: it cannot be read.
    """
    if _head(path).startswith(SINGLE):
        found = [_single(path)]
    elif zipfile.is_zipfile(path):
        arrays = read_arrays(path)
        if "format" in arrays:
            raise InvalidTraceError(f"{path}: a trace already, which needs no conversion")
        found = list(arrays.values())
    else:
        found = [array for response in _responses(path) if (array := _of_response(path, response)) is not None]
    if not found:
        raise InvalidTraceError(f"{path}: no routed_experts in it; was vLLM run with --enable-return-routed-experts?")
    return [_integers(f"{path}: routed_experts of request {number}", array) for number, array in enumerate(found)]


def read_physical_map(path: str | Path) -> NDArray[np.int64]:
    """An expert map, int64 ``[layers, slots]``, for ``maps.from_physical_to_logical``.

    Raises:
        InvalidPlacementError: no file of the kinds above, or no such map in it.
        OSError: it cannot be read.
    """
    try:
        content = _map_content(path)
    except (InvalidTraceError, ValueError, RecursionError) as error:
        raise InvalidPlacementError(f"{path}: no expert map ({error})") from error
    if isinstance(content, dict):
        found = next((content[name] for name in (MAP, f"last_{MAP}") if content.get(name) is not None), None)
        if found is None:
            raise InvalidPlacementError(f"{path}: no {MAP} in it; found {sorted(map(str, content))[:8]}")
        content = found
    return integers(InvalidPlacementError, f"{path}: {MAP}", content, "[layers, slots]")


def is_torch_file(path: str | Path) -> bool:
    """Whether torch saved it, as far as the names of its members tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _map_content(path: str | Path) -> Any:
    if _head(path).startswith(SINGLE):
        return _single(path)
    if is_torch_file(path):
        return read_torch_file(path)
    return read_arrays(path) if zipfile.is_zipfile(path) else json.loads(Path(path).read_text(encoding="utf-8"))


def _head(path: str | Path) -> bytes:
    with Path(path).open("rb") as stream:
        return stream.read(len(SINGLE))


def _single(path: str | Path) -> NDArray[Any]:
    try:
        with Path(path).open("rb") as stream:
            return np.asarray(np.load(stream, allow_pickle=False))
    except DAMAGE as error:
        raise InvalidTraceError(f"{path}: not a sound .npy file ({error})") from error


def _responses(path: str | Path) -> list[Any]:
    """The JSON objects of a file: one, a list, or one a line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        try:
            content = json.loads(text)
        except ValueError:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InvalidTraceError(f"{path}: neither arrays nor JSON ({error})") from error
    return content if isinstance(content, list) else [content]


def _of_response(path: str | Path, response: Any) -> NDArray[np.int64] | None:
    """All tokens of a response; None where nothing was recorded, as of an aborted request."""
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list):
        raise InvalidTraceError(f"{path}: no response of vLLM in it: an object with choices is expected")
    values = [response.get("prompt_routed_experts")]
    values += [choice.get("routed_experts") if isinstance(choice, dict) else None for choice in choices]
    arrays = [_decoded(path, value) for value in values if value is not None]
    if len({array.shape[1:] for array in arrays}) > 1:
        raise InvalidTraceError(f"{path}: routed_experts of one response are of shapes {[a.shape for a in arrays]}")
    return np.concatenate(arrays) if arrays else None


def _decoded(path: str | Path, value: Any) -> NDArray[np.int64]:
    if isinstance(value, str):
        try:
            value = np.load(io.BytesIO(base64.b64decode(value, validate=True)), allow_pickle=False)
        except DAMAGE as error:  # errors of base64 are ValueErrors
            raise InvalidTraceError(f"{path}: routed_experts is no .npy file in base64 ({error})") from error
    return _integers(f"{path}: routed_experts", value)


def _integers(name: str, value: Any) -> NDArray[np.int64]:
    return integers(InvalidTraceError, name, value, _ROUTED)
