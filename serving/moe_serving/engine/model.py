"""The model without its experts: loaded from a local checkpoint, its MoE layers answered by an ``ExpertsClient``.

Only tensors that belong to no expert are read. transformers' experts modules are built without parameters, and its
experts interface leads their ``forward`` to the client. Called by ``Engine.load``. A first step shows what a
configuration makes of a family, and that a lean step computes what transformers' modules do.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.utils import logging as transformers_logging

from moe_serving.checkpoint import Checkpoint, ModelError
from moe_serving.checkpoint.families import Family
from moe_serving.engine.attention import PACKED_ATTENTION, PackedStep, exclude_prepared_kernels
from moe_serving.engine.block_allocator import BLOCK_TOKENS, BlockTable
from moe_serving.engine.cache import CacheShape, KeyValueCache
from moe_serving.engine.ends import end_token_ids
from moe_serving.engine.experts import Computed, ExpertsClient
from moe_serving.engine.lean.choice import TRY, why_general
from moe_serving.engine.lean.step import LeanStep
from moe_serving.engine.lean.table import kernels_for
from moe_serving.engine.packing import PackedTokens, Span
from moe_serving.engine.rope import SequenceRope

REMOTE_EXPERTS = "moe_serving_remote"
"""Name of our function in transformers' experts interface."""

_LAYER, _CLIENT = "moe_layer", "experts_client"
"""Attributes stamped on each experts module: transformers' interface tells the function nothing of its layer."""

_NEAR: Mapping[torch.dtype, float] = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far logits of two ways to compute the same may be from each other, as a part of their size, whatever rounding
does; what is left out or mistaken moves them by more."""

_class_lock = threading.Lock()

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AttentionModel:
    """A causal language model whose experts are elsewhere.

    Attributes:
        end_token_ids: the model's own end-of-sequence tokens.
        max_context: longest sequence in tokens.
        rope: to be told of each step, where frequencies depend on a sequence's length.
        lean: computes steps in place of ``module``, where it can have them exactly.
    """

    module: PreTrainedModel
    cache_shape: CacheShape
    end_token_ids: frozenset[int]
    vocabulary: int
    max_context: int
    rope: SequenceRope | None
    lean: LeanStep | None
    dtype: torch.dtype
    device: torch.device


def load_attention_model(path: str | Path, dtype: str, device: str, experts: ExpertsClient) -> AttentionModel:
    """Load all but the experts of the checkpoint at ``path``.

    Args:
        dtype: float32, bfloat16, float16, or ``auto`` for the checkpoint's own.
        device: as torch names it.
        experts: answers every MoE layer.

    Raises:
        ModelError: the checkpoint cannot be served.
    """
    exclude_prepared_kernels()
    checkpoint = Checkpoint.open(path)
    torch_dtype: torch.dtype = getattr(torch, checkpoint.served_dtype(dtype))
    torch_device = torch.device(device)
    config = _read_config(checkpoint)
    module = _build(checkpoint, config, torch_dtype)
    nn.Module.to(module, torch_device)
    shape = _cache_shape(config)
    _connect(module, checkpoint, _TrialExperts())
    trial = _try_out(module, shape, checkpoint)
    rope = SequenceRope.of(module)
    lean = _lean_step(module, shape, checkpoint, trial, experts)
    _connect(module, checkpoint, experts)
    return AttentionModel(
        module=module,
        cache_shape=shape,
        end_token_ids=end_token_ids(checkpoint.path, config),
        vocabulary=config.vocab_size,
        max_context=checkpoint.config.max_context,
        rope=rope,
        lean=lean,
        dtype=torch_dtype,
        device=torch_device,
    )


def _read_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise ModelError("ConfigInvalid", f"{checkpoint.path / 'config.json'}: {error}") from error
    config.output_router_logits = False
    return config


def _build(checkpoint: Checkpoint, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    model_class: Any = AutoModelForCausalLM._model_mapping[type(config)]
    state = _read_without_experts(checkpoint)
    module: PreTrainedModel
    with _without_expert_weights(_experts_class(checkpoint.config.family)), _without_progress_bars():
        try:
            module, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=dtype,
                attn_implementation=PACKED_ATTENTION,
                experts_implementation=REMOTE_EXPERTS,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            raise ModelError(
                "ConfigInvalid",
                f"{checkpoint.path / 'config.json'}: transformers cannot build the model of it: "
                f"{type(error).__name__}: {error}",
            ) from error
    _check_loaded(checkpoint, info)
    return module


def _check_loaded(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """transformers fills what a checkpoint lacks with random numbers: that must not be served."""
    if info["missing_keys"]:
        raise ModelError(
            "WeightsMissing",
            f"{checkpoint.path} lacks {len(info['missing_keys'])} tensors, such as {min(info['missing_keys'])}; "
            "copy it again",
        )
    if info["mismatched_keys"]:
        name, found, wanted = min(info["mismatched_keys"])
        raise ModelError(
            "ConfigInvalid",
            f"{checkpoint.path}: tensor {name} is {list(found)}, config.json makes it {list(wanted)}; "
            "they are not of the same model",
        )


def _read_without_experts(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All parameters that belong to no expert, by ``pread``: mapped files would count as this process's memory."""
    names_by_file: dict[Path, list[tuple[str, str]]] = {}
    for name, stored in checkpoint.layout.others.items():
        names_by_file.setdefault(checkpoint.tensors[stored].file, []).append((name, stored))
    state: dict[str, Tensor] = {}
    for file, names in names_by_file.items():
        with safe_open(file, framework="pt", device="cpu", backend="pread") as tensors:
            state.update((name, tensors.get_tensor(stored)) for name, stored in names)
    return state


def _experts_class(family: Family) -> type[nn.Module]:
    module = importlib.import_module(f"transformers.models.{family.model_type}.modeling_{family.model_type}")
    experts_class: type[nn.Module] = getattr(module, family.experts_class)
    return experts_class


@contextmanager
def _without_expert_weights(experts_class: type[nn.Module]) -> Iterator[None]:
    """Modules of ``experts_class`` built inside have no parameters. transformers offers no hook for that."""
    original = experts_class.__init__

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._parameters.clear()
        self._is_hf_initialized = True  # or transformers would fill the parameters that are gone

    with _class_lock:
        experts_class.__init__ = build  # type: ignore[method-assign]  # see the docstring
        try:
            yield
        finally:
            experts_class.__init__ = original  # type: ignore[method-assign]  # as it was


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    logging: Any = transformers_logging  # untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _connect(module: PreTrainedModel, checkpoint: Checkpoint, client: ExpertsClient) -> None:
    """Number the experts modules in the order of the layers and give them the client."""
    experts_class = _experts_class(checkpoint.config.family)
    experts = [part for part in module.modules() if isinstance(part, experts_class)]
    if len(experts) != len(checkpoint.config.moe_layers):
        raise ModelError(
            "ConfigInvalid",
            f"{checkpoint.path}: the checkpoint has {len(checkpoint.config.moe_layers)} MoE layers, "
            f"transformers builds {len(experts)}",
        )
    for layer, part in enumerate(experts):
        setattr(part, _LAYER, layer)
        setattr(part, _CLIENT, client)


class _TrialExperts(ExpertsClient):
    """Answers by the gate's weights, whichever experts they are of: equally near weights
    may be sorted either way.
    """

    def submit(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Computed:
        ranks = torch.arange(1, weights.shape[1] + 1, device=weights.device)
        return Computed(hidden * (weights / ranks).sum(dim=-1, keepdim=True).to(hidden.dtype))


_TRIAL = PackedTokens(
    ids=[1, 2, 3], positions=[0, 1, 0], rows=[0, 1, BLOCK_TOKENS], seen=[2, 2, 1], last=[0, 1, 2],
    spans=[
        Span(0, 2, BlockTable(np.array([0]), BLOCK_TOKENS, 2), 2),
        Span(2, 1, BlockTable(np.array([BLOCK_TOKENS]), BLOCK_TOKENS, 1), 1),
    ],
)  # fmt: skip
"""One step of two sequences, with a block each."""
_TRIAL_ROWS = 2 * BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class _Trial:
    """Attributes:
    logits: of all tokens.
    windows: see ``PackedStep``.
    """

    logits: Tensor
    windows: Mapping[int, int]


@torch.inference_mode()
def _try_out(module: PreTrainedModel, shape: CacheShape, checkpoint: Checkpoint) -> _Trial:
    """A first packed step: what a configuration makes of a family shows now, not with the first request.

    Raises:
        ModelError: the model asks for something that is not supported, or transformers cannot compute it.
    """
    cache = KeyValueCache(shape, _TRIAL_ROWS, module.dtype, module.device)
    cache.begin_step(torch.tensor(_TRIAL.rows, device=module.device))
    step = PackedStep(cache, _TRIAL.spans)
    try:
        output = module(
            input_ids=torch.tensor([_TRIAL.ids], device=module.device),
            position_ids=torch.tensor([_TRIAL.positions], device=module.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(_TRIAL.last, device=module.device),
            packed=step,
        )
        return _Trial(output.logits[0], step.windows)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            "UnsupportedArchitecture",
            f"{checkpoint.path / 'config.json'}: a first step of the model fails in transformers: "
            f"{type(error).__name__}: {error}",
        ) from error


def _lean_step(
    module: PreTrainedModel, shape: CacheShape, checkpoint: Checkpoint, trial: _Trial, experts: ExpertsClient
) -> LeanStep | None:
    """None where transformers' modules must compute; why, is logged."""
    dtype = str(module.dtype).removeprefix("torch.")
    tries = os.environ.get(TRY) == "1"
    why = why_general(module.config.to_dict(), dtype, module.device.type, tries)
    if why is None:
        try:
            lean, distance = _try_lean(module, shape, _experts_class(checkpoint.config.family), trial)
        except Exception as error:  # noqa: BLE001 - whatever compiling kernels for this device raises: the modules work
            why = f"a first lean step fails: {type(error).__name__}: {error!s:.300}"
        else:
            if distance <= _NEAR[module.dtype]:
                _log.info("steps of %s are lean", checkpoint.path)
                lean.experts = experts
                return lean
            why = f"in a first step its logits are off by {distance:.1g} of their size"
    _log.info("steps of %s are computed by transformers' modules: %s", checkpoint.path, why)
    return None


def _try_lean(
    module: PreTrainedModel, shape: CacheShape, experts_class: type[nn.Module], trial: _Trial
) -> tuple[LeanStep, float]:
    """A lean step, and how far its logits are from those of ``trial``."""
    lean = LeanStep(module, experts_class, trial.windows, _TrialExperts(), kernels_for(module.device.type))
    cache = KeyValueCache(shape, _TRIAL_ROWS, module.dtype, module.device)
    return lean, _distance(lean.logits(_TRIAL, cache), trial.logits)


def _distance(logits: Tensor, wanted: Tensor) -> float:
    """As a part of the size of what is ``wanted``; NaN where any is not finite."""
    return float((logits.float() - wanted.float()).norm() / wanted.float().norm())


def _forward_experts(module: nn.Module, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
    """What transformers calls in place of an experts module's own ``forward``."""
    client: ExpertsClient = getattr(module, _CLIENT)
    return client.forward(getattr(module, _LAYER), hidden, expert_ids, weights)


def _cache_shape(config: PreTrainedConfig) -> CacheShape:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return CacheShape(layers=config.num_hidden_layers, heads=config.num_key_value_heads, head_dim=head_dim)


ALL_EXPERTS_FUNCTIONS.register(REMOTE_EXPERTS, _forward_experts)
