"""Checkpoints in several files, by what processes need: what belongs to no expert, and even and odd experts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

FILES = OTHERS, EVEN, ODD = "others.safetensors", "even.safetensors", "odd.safetensors"
UNUSED = "unused.safetensors"
"""A tensor that no model has, and that transformers passes over."""

_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_SINGLE = "model.safetensors"

Tensors = Mapping[str, tuple[str, list[int], bytes]]
"""Type, shape and bytes by name."""


def part(checkpoint: Path, target: Path, unused: bool = False) -> Path:
    """Write a checkpoint of one file, with experts one by one, as one of ``FILES``; ``unused``: and of ``UNUSED``."""
    shutil.copytree(checkpoint, target, ignore=shutil.ignore_patterns(_SINGLE, "*.md"))
    tensors = _read(checkpoint / _SINGLE)
    files = {name: _file_of(name) for name in tensors}
    if unused:
        tensors["unused"], files["unused"] = ("F32", [8], bytes(32)), UNUSED
    for file in sorted(set(files.values())):
        _write(target / file, {name: tensor for name, tensor in tensors.items() if files[name] == file})
    (target / f"{_SINGLE}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return target


def _file_of(name: str) -> str:
    found = _EXPERT.search(name)
    return (EVEN, ODD)[int(found[1]) % 2] if found else OTHERS


def _read(file: Path) -> dict[str, tuple[str, list[int], bytes]]:
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    header.pop("__metadata__", None)
    tensors = {}
    for name, told in header.items():
        first, end = told["data_offsets"]
        tensors[name] = told["dtype"], told["shape"], content[begin + first : begin + end]
    return tensors


def _write(file: Path, tensors: Tensors) -> None:
    header, end = {}, 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(content)]}
        end += len(content)
    told = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    file.write_bytes(len(told).to_bytes(8, "little") + told + b"".join(content for *_, content in tensors.values()))
