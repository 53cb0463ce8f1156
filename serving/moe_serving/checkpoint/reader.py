"""Single experts from a checkpoint: exactly their bytes are read, nothing stays mapped.

Called by shards. Files are read with ``pread`` instead of being mapped: a mapped page counts as this process's memory
as long as the mapping lives, and a shard must own its experts' bytes only.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from moe_serving.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One expert: ``gate_up`` ``[2I, H]`` (gate above up), ``down`` ``[H, I]``; ``activation`` acts on the gate."""

    gate_up: Tensor
    down: Tensor
    activation: str


class ExpertReader:
    """Reads experts of one checkpoint in the dtype and to the device served. Safe to use from several threads."""

    def __init__(self, path: str | Path, dtype: str, device: str) -> None:
        """
        Args:
            dtype: float32, bfloat16, float16, or ``auto`` for the checkpoint's own.
            device: as torch names it.

        Raises:
            ModelError: the checkpoint cannot be served.
        """
        self._checkpoint = Checkpoint.open(path)
        self._dtype: torch.dtype = getattr(torch, self._checkpoint.served_dtype(dtype))
        self._device = torch.device(device)
        self._files: dict[Path, Any] = {}
        self._lock = threading.Lock()

    @property
    def checkpoint(self) -> Checkpoint:
        return self._checkpoint

    def read(self, layer: int, expert: int) -> ExpertWeights:
        """One expert's weights; ``layer`` counts MoE layers only.

        Raises:
            OSError, SafetensorError: the file changed or vanished since it was checked.
        """
        names = self._checkpoint.expert_tensors(layer, expert)
        gate_up = torch.cat([self._read(names.gate), self._read(names.up)])
        return ExpertWeights(gate_up, self._read(names.down), self._checkpoint.config.activation)

    def _read(self, name: str) -> Tensor:
        tensor: Tensor = self._open(self._checkpoint.tensors[name].file).get_tensor(name)
        return tensor.to(self._device, self._dtype)

    def _open(self, file: Path) -> Any:
        """Files stay open: parsing the header of a large one takes longer than reading an expert."""
        with self._lock:
            if file not in self._files:
                self._files[file] = safe_open(file, framework="pt", device="cpu", backend="pread")
            return self._files[file]
