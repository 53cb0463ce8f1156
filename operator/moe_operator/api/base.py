"""The base of the API's types: camelCase outside, snake_case inside, docstrings become the CRD's descriptions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


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
