"""The base of the API's types: camelCase outside, snake_case inside, docstrings become the CRD's descriptions."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from moe_operator.endpoint import HttpUrl
from moe_operator.text import INVISIBLE


def _checked_text(text: str) -> str:
    if INVISIBLE.search(text):
        raise ValueError(
            f"{text[:100]!a} has a NUL, a line end or another control character, or one that is not seen, in it: "
            "write it without"
        )
    return text


def _checked_path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text[:100]!a} is not absolute: write it from / on")
    return text


def _checked_url(text: str) -> str:
    HttpUrl.parse(text)
    return text


Text = Annotated[str, AfterValidator(_checked_text)]
"""Without what the rule ``without_control_characters`` refuses."""

AbsolutePath = Annotated[Text, AfterValidator(_checked_path)]
"""What the rules of ``absolute_path`` let through."""

Url = Annotated[str, AfterValidator(_checked_url)]
"""What the rules of ``http_url`` let through."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


def json_name(field: str) -> str:
    """``dashboard_url`` is ``dashboardURL`` in a manifest: camelCase, with acronyms as Kubernetes writes them."""
    camel = to_camel(field)
    return f"{camel[:-3]}URL" if camel.endswith("Url") else camel


class ApiModel(BaseModel):
    """Of a spec: what is unknown is an error, since the API server has already pruned or refused it."""

    model_config = ConfigDict(
        alias_generator=json_name,
        validate_by_alias=True,
        validate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class StatusModel(ApiModel):
    """Of a status: fields that a newer operator wrote before a rollback are dropped, not refused."""

    model_config = ConfigDict(extra="ignore")


class SecretRef(ApiModel):
    """A Secret in the namespace of the MoEDeployment."""

    name: ObjectName
    """Name of the Secret. It must carry the label `moe-operator.io/use` that allows this use."""
