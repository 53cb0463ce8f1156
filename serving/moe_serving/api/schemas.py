"""The requests of the OpenAI API: what is accepted, and what each field may be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

from moe_serving.api.unsupported import UNSUPPORTED, only

MAX_CHOICES = 128
"""Bound on prompts x n of one request."""
EMPTY_PROMPT = "empty_prompt"
"""Type of the validation error, and ``code`` of the answer."""


class Schema(BaseModel):
    """JSON's own types, nothing converted; an unknown field is an error that names it."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _is_text(value: str) -> str:
    """JSON may hold half of a surrogate pair (``"\\ud800"``), which no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("no_text", "must be text, and holds half of a surrogate pair") from None
    return value


Text = Annotated[str, AfterValidator(_is_text)]


class TextPart(Schema):
    """A piece of a message's content."""

    type: Literal["text"]
    text: Text


def one_of(words: str) -> WrapValidator:
    """For a union: one error that says in words what is allowed, instead of one for each member."""

    def check(value: Any, members: ValidatorFunctionWrapHandler) -> Any:
        try:
            return members(value)
        except ValidationError:
            raise PydanticCustomError("one_of", "must be {words}", {"words": words}) from None

    return WrapValidator(check)


NonEmpty = Annotated[Text, StringConstraints(min_length=1)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Prompt = Annotated[
    Text | TokenIds | list[Text] | list[TokenIds],
    one_of("a text, token ids (at least one, none negative), or a list of either"),
]
Stop = Annotated[
    NonEmpty | Annotated[list[NonEmpty], Field(max_length=4)] | None,
    one_of("a text or up to 4 texts, none of them empty"),
]
Content = Annotated[
    Text | list[TextPart], one_of('a text or a list of {"type": "text", "text": ...}: this server reads text only')
]


class StreamOptions(Schema):
    """``include_usage`` adds a last chunk with the counts of tokens."""

    include_usage: bool = False
    include_obfuscation: Annotated[Any, only(False)] = None


class Unsupported(Schema):
    """What both kinds of requests have in OpenAI's schema and this server lacks."""

    frequency_penalty: Annotated[Any, only(0, 0.0)] = None
    presence_penalty: Annotated[Any, only(0, 0.0)] = None
    logit_bias: Annotated[Any, only({})] = None


class GenerationParameters(Unsupported):
    """What both kinds of requests share.

    Attributes:
        stop: up to 4 strings that end the answer and are not part of it.
        seed: equal seeds give equal answers; a random one by default.
        user: the client's name for its end user; nothing depends on it.
        ignore_eos: not OpenAI's: the model's end-of-sequence token does not end the answer.
        return_token_ids: not OpenAI's: choices carry ``token_ids``, those of the answer, so that it can be checked.
    """

    model: Text
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None
    ignore_eos: bool = False
    return_token_ids: bool = False

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
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(GenerationParameters):
    """``POST /v1/completions``. A prompt is a text or token ids, or a list of either."""

    prompt: Prompt
    echo: bool | None = None
    best_of: Annotated[Any, only(1)] = None
    logprobs: Annotated[Any, only()] = None
    suffix: Annotated[Any, only("")] = None

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
    """One message of a chat. ``developer`` is OpenAI's newer word for ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Text | None = None
    refusal: Annotated[Any, only()] = None
    tool_calls: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only()] = None
    audio: Annotated[Any, only()] = None

    def for_template(self) -> dict[str, str]:
        """The message as chat templates expect it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": content, **({"name": self.name} if self.name is not None else {})}


class ChatRequest(GenerationParameters):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only("none")] = None
    functions: Annotated[Any, only([])] = None
    logprobs: Annotated[Any, only(False)] = None
    metadata: Annotated[Any, only({})] = None
    modalities: Annotated[Any, only(["text"])] = None
    moderation: Annotated[Any, only()] = None
    parallel_tool_calls: Annotated[Any, only(True, False)] = None
    prediction: Annotated[Any, only()] = None
    prompt_cache_key: Annotated[Any, only()] = None
    prompt_cache_options: Annotated[Any, only()] = None
    prompt_cache_retention: Annotated[Any, only("in_memory")] = None
    reasoning_effort: Annotated[Any, only("none")] = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    safety_identifier: Text | None = None
    service_tier: Annotated[Any, only("auto", "default")] = None
    store: Annotated[Any, only(False)] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    tools: Annotated[Any, only([])] = None
    top_logprobs: Annotated[Any, only(0)] = None
    verbosity: Annotated[Any, only()] = None
    web_search_options: Annotated[Any, only()] = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_bound(cls, bound: int | None, others: ValidationInfo) -> int | None:
        if bound is not None and others.data.get("max_tokens") is not None:
            raise PydanticCustomError(UNSUPPORTED, "send max_tokens or max_completion_tokens, not both")
        return bound
