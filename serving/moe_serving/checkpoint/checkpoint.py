"""A whole checkpoint, checked without reading a weight: configuration, tensors of all experts, tokenizer.

Called by the directory (``inspect_model``), by shards and attention replicas (``Checkpoint.open``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from moe_placement.wire.model import ModelFacts
from moe_serving.checkpoint.config import MoEConfig, read_config
from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.families import ExpertTensors
from moe_serving.checkpoint.tensors import ITEM_BYTES, TensorEntry, TensorIndex

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

_TOKENIZER = "tokenizer.json"
"""The one form that every process can read without torch; transformers' ``save_pretrained`` writes it."""

_SAMPLES, _SAMPLE_BYTES = 128, 1024
"""Tensors looked into for the digest, and how much of each: well under a second on a network file system too."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that can be served."""

    path: Path
    config: MoEConfig
    tensors: TensorIndex
    digest: str

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Check everything that can be checked without reading weights.

        Raises:
            ModelError: with every reason there is; the first problem found.
        """
        directory = Path(path)
        try:
            return cls._open(directory)
        except OSError as error:  # such as a name too long, no permission on the way, a file system in trouble
            raise ModelError(
                "PathNotFound",
                f"model path {directory!s:.200} cannot be read: {error.strerror}; check it and its permissions",
            ) from error

    @classmethod
    def _open(cls, directory: Path) -> Checkpoint:
        if not directory.is_dir():
            what = "is a file, not a directory" if directory.exists() else "does not exist on this node"
            raise ModelError(
                "PathNotFound", f"model path {directory!s:.200} {what}; give the directory of the checkpoint"
            )
        config, raw = read_config(directory)
        tensors = TensorIndex(directory)
        _check_experts(directory, config, tensors)
        _check_tokenizer(directory)
        return cls(directory, config, tensors, _digest(raw, tensors))

    def expert_tensors(self, layer: int, expert: int) -> ExpertTensors:
        """Tensor names of one expert; ``layer`` counts MoE layers only."""
        return self.config.family.expert_tensors(self.config.moe_layers[layer], expert)

    def expert_tensor_names(self) -> frozenset[str]:
        """Names of all tensors that belong to experts."""
        every = (
            self.expert_tensors(layer, expert)
            for layer in range(len(self.config.moe_layers))
            for expert in range(self.config.experts)
        )
        return frozenset(name for names in every for name in (names.gate, names.up, names.down))

    def served_dtype(self, wanted: str) -> str:
        """The dtype to serve in: ``wanted``, or for ``auto`` the one the checkpoint was made in.

        Raises:
            ModelError: ConfigInvalid, neither is float32, bfloat16 or float16.
        """
        stored = _DTYPE_NAMES[self.tensors[self.expert_tensors(0, 0).gate].dtype]
        dtype = (self.config.dtype or stored) if wanted == "auto" else wanted
        if dtype not in DTYPE_BYTES:
            raise ModelError("ConfigInvalid", f"{self.path}: dtype is {dtype!r}; served are {', '.join(DTYPE_BYTES)}")
        return dtype

    def facts(self, dtype: str) -> ModelFacts:
        """What a planner must know, for the model served in ``dtype`` (or ``auto``)."""
        served = self.served_dtype(dtype)
        return ModelFacts(
            digest=self.digest,
            architecture=self.config.family.architecture,
            layers=len(self.config.moe_layers),
            experts=self.config.experts,
            top_k=self.config.top_k,
            bytes_per_expert=3 * self.config.hidden * self.config.intermediate * DTYPE_BYTES[served],
            dtype=served,
            max_context=self.config.max_context,
        )


def inspect_model(path: str, dtype: str) -> ModelFacts:
    """The facts of the checkpoint at ``path``, served in ``dtype`` (``auto``: its own).

    Raises:
        ModelError: it cannot be served.
    """
    return Checkpoint.open(path).facts(dtype)


def _check_experts(path: Path, config: MoEConfig, tensors: TensorIndex) -> None:
    wide, tall = (config.intermediate, config.hidden), (config.hidden, config.intermediate)
    for layer in config.moe_layers:
        for expert in range(config.experts):
            names = config.family.expert_tensors(layer, expert)
            for name, shape in ((names.gate, wide), (names.up, wide), (names.down, tall)):
                _check_tensor(path, name, shape, tensors)


def _check_tensor(path: Path, name: str, shape: tuple[int, ...], tensors: TensorIndex) -> None:
    entry = tensors.get(name)
    if entry is None:
        raise ModelError(
            "WeightsMissing", f"tensor {name} is in none of the safetensors files of {path}; copy the checkpoint again"
        )
    if entry.shape != shape:
        raise ModelError(
            "ConfigInvalid",
            f"tensor {name} in {entry.file} is {list(entry.shape)}, config.json makes it {list(shape)}; "
            "they are not of the same model",
        )
    if entry.dtype not in ITEM_BYTES:
        raise ModelError(
            "UnsupportedArchitecture",
            f"tensor {name} in {entry.file} is stored as {entry.dtype}; experts can be {', '.join(ITEM_BYTES)}",
        )


def _check_tokenizer(path: Path) -> None:
    if not (path / _TOKENIZER).is_file():
        raise ModelError(
            "TokenizerMissing",
            f"{path} has no tokenizer; it needs {_TOKENIZER}: load it with transformers and save_pretrained it",
        )


def _digest(config: bytes, tensors: TensorIndex) -> str:
    """Of the configuration, all tensors' names and shapes, and samples of the weights.

    To read all weights would take minutes. The samples tell trained models of one shape apart, whatever files they are
    split into; a change of a few single weights may escape them.
    """
    digest = hashlib.sha256(config)
    names = sorted(tensors)
    for name in names:
        entry = tensors[name]
        digest.update(json.dumps([name, entry.dtype, entry.shape]).encode())
    count = min(_SAMPLES, len(names))
    for number in range(count):
        digest.update(_sample(tensors[names[number * len(names) // count]]))
    return f"sha256:{digest.hexdigest()}"


def _sample(entry: TensorEntry) -> bytes:
    """Bytes from the middle of a tensor."""
    with entry.file.open("rb") as file:
        file.seek(max(entry.begin, (entry.begin + entry.end - _SAMPLE_BYTES) // 2))
        return file.read(min(_SAMPLE_BYTES, entry.end - entry.begin))
