"""A whole checkpoint, checked without reading a weight: configuration, tensors of all experts, tokenizer.

Called by the directory (``inspect_model``), by shards and attention replicas (``Checkpoint.open``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from moe_contract.applications import Weights
from moe_contract.model import ModelFacts
from moe_serving.checkpoint.config import MoEConfig, read_config
from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.layout import ExpertTensors, Layout
from moe_serving.checkpoint.samples import read_samples
from moe_serving.checkpoint.tensors import TensorIndex
from moe_serving.fp8.sizes import packed_expert_bytes

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

_TOKENIZER = "tokenizer.json"
"""The one form that every process can read without torch; transformers' ``save_pretrained`` writes it."""
_ADAPTER = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that can be served."""

    path: Path
    config: MoEConfig
    tensors: TensorIndex
    layout: Layout
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
        _refuse_adapter(directory)
        tensors = TensorIndex(directory)
        layout = Layout(directory, config, tensors)
        _check_tokenizer(directory)
        return cls(directory, config, tensors, layout, _digest(directory, raw, tensors))

    def expert_tensors(self, layer: int, expert: int) -> ExpertTensors:
        """Where one expert is stored; ``layer`` counts MoE layers only."""
        return self.layout.expert(layer, expert)

    def expert_files(self, layer: int, expert: int) -> frozenset[Path]:
        """The files with one expert."""
        stored = self.expert_tensors(layer, expert)
        return frozenset(self.tensors[part.name].file for part in (*stored.gate_up, stored.down))

    @property
    def other_files(self) -> frozenset[Path]:
        """The files with parameters that belong to no expert."""
        return frozenset(self.tensors[stored].file for stored in self.layout.others.values())

    @property
    def files(self) -> frozenset[Path]:
        """All files with weights."""
        return frozenset(entry.file for entry in self.tensors.values())

    def served_dtype(self, wanted: str) -> str:
        """The dtype to serve in: ``wanted``, or for ``auto`` the one the checkpoint was made in.

        Raises:
            ModelError: ConfigInvalid, neither is float32, bfloat16 or float16.
        """
        stored = _DTYPE_NAMES[self.tensors[self.expert_tensors(0, 0).down.name].dtype]
        dtype = (self.config.dtype or stored) if wanted == "auto" else wanted
        if dtype not in DTYPE_BYTES:
            raise ModelError("ConfigInvalid", f"{self.path}: dtype is {dtype!r}; served are {', '.join(DTYPE_BYTES)}")
        return dtype

    def facts(self, dtype: str, weights: Weights = "Checkpoint") -> ModelFacts:
        """What the brain must know to place its experts, for the model served in ``dtype`` (or ``auto``), and experts
        held as ``weights`` says."""
        served, config = self.served_dtype(dtype), self.config
        numbers = 3 * config.hidden * config.intermediate * DTYPE_BYTES[served]
        return ModelFacts(
            digest=self.digest,
            architecture=self.config.family.architecture,
            layers=len(self.config.moe_layers),
            experts=self.config.experts,
            top_k=self.config.top_k,
            bytes_per_expert=packed_expert_bytes(config.hidden, config.intermediate) if weights == "FP8" else numbers,
            dtype=served,
            max_context=self.config.max_context,
            weights=weights,
        )


def inspect_model(path: str, dtype: str, weights: Weights = "Checkpoint") -> ModelFacts:
    """The facts of the checkpoint at ``path``, served in ``dtype`` (``auto``: its own); see ``Checkpoint.facts``.

    Raises:
        ModelError: it cannot be served.
    """
    return Checkpoint.open(path).facts(dtype, weights)


def _refuse_adapter(path: Path) -> None:
    """``from_pretrained`` applies it where the library for adapters is installed, and passes over it elsewhere."""
    if (path / _ADAPTER).exists():
        raise ModelError(
            "UnsupportedArchitecture",
            f"{path / _ADAPTER} is an adapter, which transformers would apply to the weights beside it; merge it into "
            "them (merge_and_unload of peft) and save the result, or take it away",
        )


def _check_tokenizer(path: Path) -> None:
    if not (path / _TOKENIZER).is_file():
        raise ModelError(
            "TokenizerMissing",
            f"{path} has no tokenizer; it needs {_TOKENIZER}: load it with transformers and save_pretrained it",
        )


def _digest(path: Path, config: bytes, tensors: TensorIndex) -> str:
    """Of the configuration, all tensors' names and shapes, and samples of the weights.

    To read all weights would take minutes. The samples tell trained models of one shape apart, whatever files they are
    split into, and whether these are all on this node; a change of a few single weights may escape them.
    """
    digest = hashlib.sha256(config)
    for name in sorted(tensors):
        entry = tensors[name]
        digest.update(json.dumps([name, entry.dtype, entry.shape]).encode())
    for sample in read_samples(path, tensors):
        digest.update(sample)
    return f"sha256:{digest.hexdigest()}"
