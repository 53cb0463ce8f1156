"""How a model's makers say that it should be sampled, for requests that say nothing: ``generation_config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from moe_serving.api.schemas import GenerationParameters
from moe_serving.checkpoint.generation import read_generation_config

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What is taken from the file; requests have it under the same names and within the same bounds."""

_CHANGES_NOTHING: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "diversity_penalty": (0,),
    "do_sample": (True,),
    "early_stopping": (False,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0, 1),
    "eta_cutoff": (0, 1),
    "force_words_ids": ([],),
    "guidance_scale": (1,),
    "length_penalty": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False, True),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "typical_p": (1,),
}
"""Values of transformers' other fields at which they do not change an answer; null never does."""
_NEVER = {
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "decoder_start_token_id",
    "disable_compile",
    "eos_token_id",
    "is_assistant",
    "low_memory",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "return_dict_in_generate",
    "return_legacy_cache",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
}
"""Fields that are about how the same is computed, and the end tokens, which the engine takes."""
_MOST_NAMED, _LONGEST_NAME = 32, 64


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """
    Attributes:
        sampling: values of fields in ``SAMPLING``, as a request would name them.
        unused: what else in the file would change answers under transformers and does not here; names, bounded.
    """

    sampling: dict[str, float]
    unused: tuple[str, ...] = ()


NO_DEFAULTS = GenerationDefaults({})


def read_defaults(path: str) -> GenerationDefaults:
    """Of the checkpoint at ``path``.

    Raises:
        ModelError: ConfigInvalid, the file cannot be read.
    """
    content = {name: value for name, value in read_generation_config(Path(path)).items() if value is not None}
    sampling = {name: content[name] for name in SAMPLING if name in content and _is_valid(name, content[name])}
    unused = sorted(name for name, value in content.items() if name not in sampling and _changes(name, value))
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in unused[:_MOST_NAMED]]
    return GenerationDefaults(sampling, tuple(shown))


def _is_valid(name: str, value: Any) -> bool:
    field = GenerationParameters.model_fields[name]
    try:
        TypeAdapter(field.rebuild_annotation()).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _changes(name: str, value: Any) -> bool:
    if name in _NEVER or name.startswith("_"):
        return False
    return value not in _CHANGES_NOTHING.get(name, ())
