"""The requests of the OpenAI API: one schema for all routes says what each field may be, at every nesting.

A field is supported, a hint without effect (``Hint``), or one that this server cannot honour (``Only``); what is in no
schema is taken and reported (see ``unknown``). ``docs/serving-api.md`` is generated from here (see ``reference``).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from moe_serving.api.fields import UNSUPPORTED, Hint, Only, Text, json_at_most, one_of
from moe_serving.engine.request import MAX_PENALTY, MIN_PENALTY

MAX_CHOICES = 128
"""Bound on prompts x n of one request."""
MAX_STOPS = 32
"""OpenAI's own bound is 4; completions in editors send a dozen."""
MAX_STOP_CHARACTERS = 1024
MAX_MESSAGES = 4096
"""Of a chat, and text parts of a message: a template runs over all of them before their tokens can be counted."""
MAX_TEMPLATE_JSON = 8192
"""Characters of ``chat_template_kwargs``."""
EMPTY_PROMPT = "empty_prompt"
"""Type of the validation error, and ``code`` of the answer."""


class Schema(BaseModel):
    """JSON's own types, nothing converted. Unknown fields are kept apart, in ``model_extra``."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=(), use_attribute_docstrings=True)


NonEmpty = Annotated[Text, StringConstraints(min_length=1)]
StopText = Annotated[NonEmpty, StringConstraints(max_length=MAX_STOP_CHARACTERS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Prompt = Annotated[
    Text | TokenIds | list[Text] | list[TokenIds],
    one_of("a text, token ids (at least one, none negative), or a list of either"),
]
Stop = Annotated[
    StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None,
    one_of(f"a text or up to {MAX_STOPS} texts, none of them empty or longer than {MAX_STOP_CHARACTERS} characters"),
]
HintText = Annotated[Text | None, Hint(), one_of("text")]
HintBool = Annotated[bool | None, Hint()]
HintObject = Annotated[dict[str, Any] | None, Hint()]
HintAny = Annotated[Any, Hint()]


class TextPart(Schema):
    """A piece of a message's content."""

    type: str
    """`"text"`: this server reads text only."""
    text: Text
    """The pieces of a message are joined by line ends."""
    cache_control: HintObject = None
    """Anthropic's cache mark, as bridges hand it on."""

    @field_validator("type")
    @classmethod
    def _is_text(cls, kind: str) -> str:
        if kind != "text":
            raise PydanticCustomError("part_type", "this server reads text only; send parts of type text")
        return kind


def _as_parts(content: Any) -> Any:
    """A plain text as its only part."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        return content
    words = 'a text or a list of {"type": "text", "text": ...}: this server reads text only'
    raise PydanticCustomError("one_of", "must be {words}", {"words": words})


Content = Annotated[list[TextPart], Field(max_length=MAX_MESSAGES), BeforeValidator(_as_parts)]


class StreamOptions(Schema):
    """Of a stream."""

    include_usage: bool | None = None
    """Adds a last chunk with the counts of tokens."""
    continuous_usage_stats: bool | None = None
    """vLLM's: with `include_usage`, every chunk has the counts so far."""
    include_obfuscation: HintBool = None
    """Padding against those who measure packets: chunks have none."""


class GenerationParameters(Schema):
    """What both kinds of requests share."""

    model: Text
    """The name under which the model is served."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Bound on the tokens of an answer."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 takes the most likely token. Default: the model's, else 1."""
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Draw from this many of the most likely tokens; 0 and -1 from all. Default: the model's, else all."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw from the smallest set of tokens whose probabilities reach this sum; 0 takes the most likely token. \
Default: the model's, else 1."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw from the tokens at least this times as likely as the most likely one. Default: the model's, else 0."""
    repetition_penalty: Annotated[float, Field(ge=MIN_PENALTY, le=MAX_PENALTY)] | None = None
    """Above 1, tokens of the prompt and of the answer so far are less likely, at temperature 0 too. Default: the \
model's, else 1."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """Answers to each prompt."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Equal seeds give equal answers; a random one by default."""
    stop: Stop = None
    """Strings that end the answer and are not part of it."""
    stream: bool | None = None
    """Send the answer in pieces, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only of a stream."""
    ignore_eos: bool | None = None
    """vLLM's: the model's end tokens do not end the answer."""
    return_token_ids: bool | None = None
    """vLLM's: choices carry `token_ids`, those of the answer, so that it can be checked."""

    cache_salt: HintText = None
    """vLLM's: keeps caches of prompts apart."""
    metadata: HintObject = None
    """Notes of the client."""
    models: Annotated[list[Text] | None, Hint()] = None
    """OpenRouter's: models to fall back on. The one of `model` answers."""
    parallel_tool_calls: HintBool = None
    """There are no tool calls."""
    prediction: HintObject = None
    """A guess at the answer, to be faster."""
    priority: Annotated[int | None, Hint()] = None
    """vLLM's: order of requests that wait."""
    prompt_cache_key: HintText = None
    """Which requests share a prompt's beginning."""
    prompt_cache_options: HintObject = None
    """How caches of prompts are kept."""
    prompt_cache_retention: HintText = None
    """How long caches of prompts are kept."""
    request_id: HintText = None
    """vLLM's: answers have ids of this server's own."""
    safety_identifier: HintText = None
    """The client's name for its end user."""
    service_tier: HintText = None
    """All requests are served alike."""
    spaces_between_special_tokens: HintBool = None
    """vLLM's: special tokens are no text here."""
    user: HintText = None
    """The client's name for its end user."""

    allowed_token_ids: Annotated[Any, Only()] = None
    bad_words: Annotated[Any, Only([])] = None
    best_of: Annotated[Any, Only(1)] = None
    early_stopping: Annotated[Any, Only(False)] = None
    ebnf: Annotated[Any, Only()] = None
    frequency_penalty: Annotated[Any, Only(0)] = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    functions: Annotated[Any, Only([])] = None
    grammar: Annotated[Any, Only()] = None
    guided_choice: Annotated[Any, Only()] = None
    guided_grammar: Annotated[Any, Only()] = None
    guided_json: Annotated[Any, Only()] = None
    guided_regex: Annotated[Any, Only()] = None
    include_stop_str_in_output: Annotated[Any, Only(False)] = None
    json_schema: Annotated[Any, Only()] = None
    length_penalty: Annotated[Any, Only(1)] = None
    logit_bias: Annotated[Any, Only({})] = None
    logits_processors: Annotated[Any, Only([])] = None
    max_new_tokens: Annotated[Any, Only()] = None
    min_tokens: Annotated[Any, Only(0)] = None
    no_repeat_ngram_size: Annotated[Any, Only(0)] = None
    presence_penalty: Annotated[Any, Only(0)] = None
    prompt_logprobs: Annotated[Any, Only()] = None
    regex: Annotated[Any, Only()] = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    return_tokens_as_token_ids: Annotated[Any, Only(False)] = None
    skip_special_tokens: Annotated[Any, Only(True)] = None
    stop_regex: Annotated[Any, Only()] = None
    stop_token_ids: Annotated[Any, Only([])] = None
    structured_outputs: Annotated[Any, Only()] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    tools: Annotated[Any, Only([])] = None
    truncate_prompt_tokens: Annotated[Any, Only()] = None
    typical_p: Annotated[Any, Only(1)] = None
    use_beam_search: Annotated[Any, Only(False)] = None

    @field_validator("stream_options")
    @classmethod
    def _only_of_a_stream(cls, options: StreamOptions | None, others: ValidationInfo) -> StreamOptions | None:
        if options is not None and not others.data.get("stream", True):
            raise PydanticCustomError("stream_options", "is only for streams; leave it out or send stream=true")
        return options

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def choices_per_prompt(self) -> int:
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def wants_usage_always(self) -> bool:
        """Whether every chunk of a stream shall have the counts so far."""
        return self.wants_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)


class CompletionRequest(GenerationParameters):
    """`POST /v1/completions`."""

    route: ClassVar[str] = "/v1/completions"

    prompt: Prompt
    """A text or token ids, or a list of either."""
    echo: bool | None = None
    """The answer begins with the prompt."""
    add_special_tokens: bool | None = None
    """vLLM's: put the tokenizer's own tokens, such as the begin token, around a text. Default true; a begin token \
that the text brings itself is not doubled."""
    logprobs: Annotated[Any, Only()] = None
    max_completion_tokens: Annotated[Any, Only()] = None
    suffix: Annotated[Any, Only("")] = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, prompt: Any) -> Any:
        if not prompt or any(text == "" for text in prompt):
            raise PydanticCustomError(EMPTY_PROMPT, "the prompt is empty; send at least one token")
        return prompt


class Message(Schema):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    """`developer` is OpenAI's newer word for `system`."""
    content: Content | None = Field(default=None, validate_default=True)
    """A text, or a list of text parts. An assistant's may be missing: it was stopped before its first token."""
    name: Text | None = None
    """Of the speaker, for templates that read it."""
    reasoning_content: Text | None = None
    """An assistant's earlier reasoning, for templates that read it."""
    reasoning: Text | None = None
    """Another name of `reasoning_content`."""

    annotations: HintAny = None
    """An answer's, sent back: where it cites from."""
    cache_control: HintObject = None
    """Anthropic's cache mark, as bridges hand it on."""
    provider_specific_fields: HintAny = None
    """An answer's, sent back by LiteLLM."""
    reasoning_details: HintAny = None
    """An answer's, sent back by OpenRouter's clients."""
    thinking_blocks: HintAny = None
    """An answer's, sent back by LiteLLM."""

    audio: Annotated[Any, Only()] = None
    function_call: Annotated[Any, Only()] = None
    parsed: Annotated[Any, Only()] = None
    prefix: Annotated[Any, Only(False)] = None
    refusal: Annotated[Any, Only()] = None
    tool_call_id: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([])] = None

    @field_validator("content")
    @classmethod
    def _only_an_assistants_may_miss(cls, content: Any, others: ValidationInfo) -> Any:
        if content is None and others.data.get("role", "assistant") != "assistant":
            raise PydanticCustomError("missing", "is required")
        return content

    def for_template(self) -> dict[str, str]:
        """The message as chat templates expect it."""
        message = {
            "role": "system" if self.role == "developer" else self.role,
            "content": "\n".join(part.text for part in self.content or ()),
        }
        if self.name is not None:
            message["name"] = self.name
        reasoning = self.reasoning_content if self.reasoning_content is not None else self.reasoning
        if reasoning is not None:
            message["reasoning_content"] = message["reasoning"] = reasoning
        return message


_TEMPLATES_OWN = {
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length",
    "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "sanitize_control_tokens",
    "tokenize", "tokenizer_kwargs", "tools", "truncation",
}  # fmt: skip
"""Names that mean something to the function that fills a template in."""


def _check_template_names(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if not name.isidentifier() or len(name) > 64:
            raise PydanticCustomError(
                "template_name", "{name} is no name of a template's variable", {"name": name[:80]}
            )
        if name in _TEMPLATES_OWN or name.endswith(("_token", "_tokens")):
            raise PydanticCustomError("template_name", "{name} is this server's own to set", {"name": name})
    return kwargs


class ChatRequest(GenerationParameters):
    """`POST /v1/chat/completions`."""

    route: ClassVar[str] = "/v1/chat/completions"

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    """The chat so far."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """OpenAI's newer name of `max_tokens`."""
    chat_template_kwargs: (
        Annotated[dict[str, Any], AfterValidator(_check_template_names), json_at_most(MAX_TEMPLATE_JSON)] | None
    ) = None
    """vLLM's: variables for the chat template, such as `{"enable_thinking": false}`. A template that does not read \
one is not changed by it."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """Given to the chat template, under this name. A template that does not read it is not changed by it."""

    include_reasoning: HintBool = None
    """vLLM's: reasoning is part of the text here."""

    add_generation_prompt: Annotated[Any, Only(True)] = None
    add_special_tokens: Annotated[Any, Only(False)] = None
    audio: Annotated[Any, Only()] = None
    chat_template: Annotated[Any, Only()] = None
    continue_final_message: Annotated[Any, Only(False)] = None
    documents: Annotated[Any, Only([])] = None
    echo: Annotated[Any, Only(False)] = None
    logprobs: Annotated[Any, Only(False)] = None
    modalities: Annotated[Any, Only(["text"])] = None
    moderation: Annotated[Any, Only()] = None
    store: Annotated[Any, Only(False)] = None
    top_logprobs: Annotated[Any, Only(0)] = None
    verbosity: Annotated[Any, Only("medium")] = None
    web_search_options: Annotated[Any, Only()] = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_bound(cls, bound: int | None, others: ValidationInfo) -> int | None:
        if bound is not None and others.data.get("max_tokens") is not None:
            raise PydanticCustomError(UNSUPPORTED, "send max_tokens or max_completion_tokens, not both")
        return bound

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template gets beside the messages."""
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort is not None else {}
        return effort | (self.chat_template_kwargs or {})
