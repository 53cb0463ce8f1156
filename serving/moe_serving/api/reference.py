"""``docs/serving-api.md``: what requests may hold, made from the schemas.

``python -m moe_serving.api.reference`` in the repository root (``make crds``); with ``--check`` it only compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from moe_serving.api.fields import Hint, Only
from moe_serving.api.schemas import (
    ChatRequest,
    CompletionRequest,
    GenerationParameters,
    Message,
    Schema,
    StreamOptions,
    TextPart,
)
from moe_serving.api.unknown import HEADER, MAX_UNKNOWN

_PATH = Path("docs/serving-api.md")

_HEADER = f"""\
<!-- Generated from serving/moe_serving/api by `make crds`; edit the schemas, not this file. -->
# Requests

`POST /v1/completions` and `POST /v1/chat/completions` take the fields of OpenAI's API and those that common clients of
other servers send. One schema decides for both routes and for everything nested in a request:

- A field that is **supported** does what it says. Its values are checked strictly: `"5"` is no number.
- A **hint** changes no answer. Its value is checked and has no effect.
- A field that would change the answer and that this server **cannot honour** is refused by its name (400,
  `unsupported_parameter`), unless its value asks for nothing. `null` never asks for anything.
- A field that **nobody knows** is taken and reported: the answer's header `{HEADER}` has up to ten such
  names, those inside of others with the outer name before them (`messages.mood`), and `moe_ignored_fields_total` counts
  them. A name that does not fit `[A-Za-z0-9_.-]{{1,40}}` is only counted; more than {MAX_UNKNOWN} different ones are
  refused. A name that is one edit away from a known one (`max_token`) is refused, with the name that was meant.

## What is worth knowing

- **Context.** `/v1/models` tells it as `max_model_len`: the model's own, within `spec.serving.maxContext` and the cache
  of a replica. A scaling by YaRN (or a linear one) in `config.json` makes it longer than `max_position_embeddings` by
  its factor. What does not fit is refused with `context_length_exceeded` and OpenAI's words, by which clients know it.
- **Prompts.** A text gets the begin token once, whether the client has rendered the chat template itself or not; with
  `add_special_tokens: false` nothing is put around it. Text parts of a message are joined by line ends. Special tokens
  inside of messages and template variables are plain text.
- **Sampling.** `temperature`, `top_p`, `top_k`, `min_p` and `repetition_penalty` of the model's
  `generation_config.json` hold for requests that do not name them; `/v1/models` tells them as `generation_defaults`.
  What else in that file would change answers under transformers is not used: `/v1/models` names it as
  `generation_config_unused`, and the api's log does. `spec.serving.generationDefaults: None`, or
  `moe-serve --generation-config none`, does without the file. All five mean what they mean in transformers; at
  `temperature: 0` the most likely token is taken, after the penalty if there is one.
- **Fingerprint.** `system_fingerprint` changes with the checkpoint. It has `-adaptive-` and a percentage in it while
  experts of low gate weight may be left out ([adaptive-routing.md](adaptive-routing.md)), `-fp8-weights` where
  shards hold experts as FP8, and `-fp8-wire` while rows may travel so ([fp8.md](fp8.md)).
- **Browsers.** No web page may ask unless its origin is one of `spec.serving.allowedOrigins`, or of `moe-serve
  --allowed-origin`. Origins are whole: no `*`, no paths. A page shows its API key as everybody else; cookies are never
  read, so credentials in the browser's sense are not allowed.
- **Bodies.** At most 16 MiB, 4096 messages, and text that can fit the context: what cannot is refused before it is
  tokenized, and long texts have threads of their own, so that short ones do not wait for them. A body that brings
  nothing for 30 s, or has no end after 5 minutes, is answered with 408 and the connection closed. API keys are ASCII:
  others could not be shown in a header.
- **Queue.** Requests beyond what runs wait, and shares are fair: between API keys, and within a key between requests,
  however many answers each asks for, so that who asks for much makes room for who asks for little. What is more than
  `spec.serving.queue` (`moe-serve --queue-requests`, `--queue-tokens`) lets wait is answered with 429,
  `rate_limit_exceeded`, and a `Retry-After` in seconds: a request as a whole, before a byte of an answer.
- **Ends.** An answer ends with any end token that the model's files name: `config.json`, `generation_config.json`, the
  tokenizer's configuration, or the special token that its chat template puts behind an answer. `ignore_eos` goes on
  beyond all of them. A stop string that is a special token, or has some
  in it, ends the answer too, though their texts never appear.
- **Load.** `GET /v1/load`, with an API key as everything else, tells which share of the work each shard has and the ten
  busiest experts of each third of the layers, in parts of 10,000: what `status.load` of a MoEDeployment has. They are
  sums over the requests of all keys; each process looks once a minute, and `layer_rows` has two digits that count.
- **Streams.** The chunk that has `finish_reason` has no text. U+0085, U+2028 and U+2029 are escaped in events, so that
  no reader of lines cuts one in two; `X-Accel-Buffering: no` asks proxies not to collect them.
"""

_SECTIONS: tuple[tuple[str, type[Schema]], ...] = (
    ("Fields of both routes", GenerationParameters),
    ("Fields of `POST /v1/completions` only", CompletionRequest),
    ("Fields of `POST /v1/chat/completions` only", ChatRequest),
    ("`messages[]`", Message),
    ("`messages[].content[]`", TextPart),
    ("`stream_options`", StreamOptions),
)


def reference() -> str:
    """The whole document, Markdown."""
    return "\n".join([_HEADER, *(line for title, schema in _SECTIONS for line in _section(title, schema))])


def _section(title: str, schema: type[Schema]) -> Iterator[str]:
    shared = GenerationParameters.model_fields if GenerationParameters in schema.__bases__ else {}
    fields = {name: field for name, field in schema.model_fields.items() if name not in shared}
    yield f"## {title}\n"
    supported = {name: field for name, field in fields.items() if not _marks(field, Hint, Only)}
    yield _table(("Supported", "Values", "Meaning"), (_entry(name, field) for name, field in supported.items()))
    hints = {name: field for name, field in fields.items() if _marks(field, Hint)}
    if hints:
        yield _table(("Hint", "Values", "About"), (_entry(name, field) for name, field in hints.items()))
    refused = {name: mark for name, field in fields.items() for mark in _marks(field, Only)}
    if refused:
        yield _table(("Cannot be honoured", "Taken all the same"), (_neutral(name, refused[name]) for name in refused))


def _marks(field: FieldInfo, *kinds: type) -> list[Any]:
    return [mark for mark in field.metadata if isinstance(mark, kinds)]


def _entry(name: str, field: FieldInfo) -> tuple[str, ...]:
    needed = " (required)" if field.is_required() else ""
    return f"`{name}`{needed}", _values(field), " ".join((field.description or "").split())


def _neutral(name: str, mark: Only) -> tuple[str, ...]:
    return f"`{name}`", ", ".join(f"`{json.dumps(value)}`" for value in (*mark.neutral, None))


def _values(field: FieldInfo) -> str:
    schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    return _words(schema, schema.get("$defs", {}))


def _words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "anyOf" in schema:
        kinds = [_words(kind, definitions) for kind in schema["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            most = f" (at most {schema['maxItems']})" if "maxItems" in schema else ""
            return f"list of {_words(schema['items'], definitions)}{most}"
        case "integer" | "number":
            return f"{schema['type']}{_range(schema)}"
        case "string":
            return "text" + (f" of up to {schema['maxLength']} characters" if "maxLength" in schema else "")
        case "boolean":
            return "`true`, `false`"
        case "object":
            return "object"
    return "object" if "$ref" in schema else "any"


def _range(schema: dict[str, Any]) -> str:
    """Bounds that mean something to a person: a seed's are those of an integer of 64 bits."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if abs(schema.get(key, 2**63)) < 2**53]
    return f" ({', '.join(bounds)})" if bounds else ""


def _table(head: tuple[str, ...], entries: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *entries]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or with ``--check`` return 1 if it is not what the schemas say."""
    parser = argparse.ArgumentParser(prog="python -m moe_serving.api.reference", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="the repository root (default: here)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file differs")
    options = parser.parse_args(arguments)
    path: Path = options.root / _PATH
    same = path.exists() and path.read_text() == reference()
    if options.check and not same:
        sys.stderr.write(f"{_PATH} differs from the schemas: run `make crds`\n")
        return 1
    if not same:
        path.write_text(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
