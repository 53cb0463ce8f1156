"""Where each parameter of a model is stored: tensors by the names of transformers' modules, whatever they are called.

transformers loads several layouts as the same model, and so do we: experts one by one or fused as its modules hold them
(``gate_up_proj`` ``[E, 2I, H]``, ``down_proj`` ``[E, H, I]``, written by ``save_original_format=False``), names with or
without the prefix of the base model, and Mixtral's older name of its MoE block. What would be ambiguous is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moe_serving.checkpoint.config import MoEConfig
from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.parameters import EMBEDDINGS, HEAD, Shape
from moe_serving.checkpoint.tensors import ITEM_BYTES, TensorEntry, TensorIndex

_BASE = "model."
"""``base_model_prefix`` of all families."""
_FUSED = ("gate_up_proj", "down_proj")
_EXPERTS = re.compile(
    r"model\.layers\.(?P<layer>\d{1,9})\.mlp\.experts\.(?:(?P<expert>\d{1,9})\.)?(?P<parameter>.+)",
    re.DOTALL | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ExpertPart:
    """A stored tensor, or with ``expert`` the slice of it that is this expert's."""

    name: str
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class ExpertTensors:
    """Where an expert lies: ``gate_up`` in one part ``[2I, H]`` or two ``[I, H]``, ``down`` ``[H, I]``."""

    gate_up: tuple[ExpertPart, ...]
    down: ExpertPart


class Layout:
    """The tensors of one checkpoint; all that the model needs is there, in the right shape."""

    def __init__(self, path: Path, config: MoEConfig, tensors: TensorIndex) -> None:
        """
        Raises:
            ModelError: WeightsMissing, ConfigInvalid (a shape) or UnsupportedArchitecture (a type).
        """
        self._path = path
        self._config = config
        self._tensors = tensors
        self._moe_layers = frozenset(config.moe_layers)
        self._stored = self._names()
        self._check_experts()
        self._check_others()

    def expert(self, layer: int, expert: int) -> ExpertTensors:
        """``layer`` counts MoE layers only."""
        decoder_layer = self._config.moe_layers[layer]
        gate, up, down = self._split_names(decoder_layer, expert)
        fused_gate_up, fused_down = (self._stored.get(name) for name in _fused_names(decoder_layer))
        if fused_gate_up is not None:
            gate_up: tuple[ExpertPart, ...] = (ExpertPart(fused_gate_up, expert),)
        else:
            gate_up = ExpertPart(self._stored[gate]), ExpertPart(self._stored[up])
        whole_down = ExpertPart(fused_down, expert) if fused_down is not None else ExpertPart(self._stored[down])
        return ExpertTensors(gate_up, whole_down)

    @property
    def others(self) -> Mapping[str, str]:
        """Of all parameters that belong to no expert and are stored: the stored name by transformers' own."""
        return {name: self._stored[name] for name in self._config.others if name in self._stored}

    def _names(self) -> dict[str, str]:
        """The stored name of each parameter, or of each expert's tensor, by transformers' own.

        The rule of transformers' ``rename_source_key``: the base model's prefix is taken away or added where that makes
        a known name.
        """
        found: dict[str, str] = {}
        for stored in self._tensors:
            name = self._config.family.module_name(stored)
            if self._is_known(name.removeprefix(_BASE)):
                name = name.removeprefix(_BASE)
            elif self._is_known(_BASE + name):
                name = _BASE + name
            if found.setdefault(name, stored) != stored and self._is_known(name):
                raise self._ambiguous(name, found[name], stored)
        return found

    def _is_known(self, name: str) -> bool:
        """Whether the model has this parameter, or tensor of one expert."""
        found = _EXPERTS.fullmatch(name)
        if found is None:
            return name in self._config.others
        layer, number, parameter = found["layer"], found["expert"], found["parameter"]
        if int(layer) not in self._moe_layers:
            return False
        if number is None:
            return parameter in _FUSED
        return int(number) < self._config.experts and parameter in self._config.family.projections

    def _check_experts(self) -> None:
        config = self._config
        wide, tall = (config.intermediate, config.hidden), (config.hidden, config.intermediate)
        for layer in config.moe_layers:
            fused_gate_up, fused_down = _fused_names(layer)
            split = [self._split_names(layer, expert) for expert in range(config.experts)]
            gates_and_ups = [name for gate, up, _ in split for name in (gate, up)]
            self._check_one_of(fused_gate_up, (2 * wide[0], wide[1]), gates_and_ups, wide)
            self._check_one_of(fused_down, tall, [down for _, _, down in split], tall)

    def _check_one_of(self, fused: str, fused_shape: Shape, split: Iterable[str], split_shape: Shape) -> None:
        """A parameter of all experts of a layer is stored in one piece or expert by expert."""
        if fused in self._stored:
            for name in split:
                if name in self._stored:
                    raise self._ambiguous(fused, self._stored[fused], self._stored[name])
            self._check(fused, (self._config.experts, *fused_shape))
        else:
            for name in split:
                self._check(name, split_shape)

    def _check_others(self) -> None:
        tied = self._config.tied
        for name, shape in self._config.others.items():
            # transformers lets either stand for the other.
            partner = {HEAD: EMBEDDINGS, EMBEDDINGS: HEAD}.get(name)
            if not (tied and partner in self._stored and name not in self._stored):
                self._check(name, shape)

    def _check(self, name: str, shape: Shape) -> None:
        stored = self._stored.get(name)
        if stored is None:
            raise self._missing(name)
        entry = self._tensors[stored]
        if entry.shape != shape:
            raise ModelError(
                "ConfigInvalid",
                f"tensor {stored} in {entry.file} is {list(entry.shape)}, config.json makes it {list(shape)}; "
                "they are not of the same model",
            )
        if entry.dtype not in ITEM_BYTES:
            raise ModelError(
                "UnsupportedArchitecture",
                f"tensor {stored} in {entry.file} is stored as {entry.dtype}; weights can be {', '.join(ITEM_BYTES)}",
            )

    def _missing(self, name: str) -> ModelError:
        where = f"tensor {self._config.family.stored_name(name)} is in none of the safetensors files of {self._path}"
        if unread := self._tensors.unread:
            where += f" that are read ({self._tensors.read_by}; {unread} beside it is not, as transformers has it)"
        if name == HEAD:
            return ModelError(
                "WeightsMissing",
                f"{where}, and tie_word_embeddings in config.json is false or not there, so nothing stands for it; set "
                "it to true if the model ties its head to its embeddings, else copy the checkpoint again",
            )
        return ModelError("WeightsMissing", f"{where}; copy the checkpoint again")

    def _ambiguous(self, name: str, one: str, other: str) -> ModelError:
        return ModelError(
            "ConfigInvalid",
            f"{self._path}: tensors {one} in {self._file(one)} and {other} in {self._file(other)} are both {name} of "
            "the model; keep one of them",
        )

    def _file(self, stored: str) -> str:
        entry: TensorEntry = self._tensors[stored]
        return entry.file.name

    def _split_names(self, layer: int, expert: int) -> tuple[str, str, str]:
        prefix = f"{_experts_prefix(layer)}{expert}."
        gate, up, down = self._config.family.projections
        return prefix + gate, prefix + up, prefix + down


def _fused_names(layer: int) -> tuple[str, str]:
    gate_up, down = _FUSED
    return _experts_prefix(layer) + gate_up, _experts_prefix(layer) + down


def _experts_prefix(layer: int) -> str:
    """Of the experts of a decoder layer, dense ones counted."""
    return f"model.layers.{layer}.mlp.experts."
