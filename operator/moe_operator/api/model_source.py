"""``spec.model.source``: where the checkpoint is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import ConfigDict, Field

from moe_operator.api.base import ApiModel, ObjectName, SecretRef, Text, Url
from moe_operator.api.names import MODEL_ACCESS_KEYS, MODEL_TOKEN
from moe_operator.api.rules import (
    QUOTED_SELF,
    Rule,
    exactly_one_of,
    http_url,
    required_with_cure,
    validations,
    without_control_characters,
)
from moe_operator.errors import InvalidObjectError

_INNER_PATH = "^([A-Za-z0-9._@+ -]+(/[A-Za-z0-9._@+ -]+)*)?$"
InnerPath = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=validations(
            Rule(
                rule=f"self.matches('{_INNER_PATH}') && !self.matches('(^|/)[.][.]?(/|$)')",
                message=(
                    "spec.model.source: path is %s: write a folder relative to the root of the volume, such as "
                    "models/tiny, without . and .. and a slash at either end"
                ),
                values=(QUOTED_SELF,),
            )
        ),
    ),
]
SOURCE_CURE = "write e.g. source: {path: models/tiny}"

_FOLDER = (
    "^(https|s3)://[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?(:[0-9]{1,5})?"
    "(/([A-Za-z0-9._~!$&()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*$"
)
_REPO = "^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"


class HuggingFace(ApiModel):
    """A repository of Hugging Face at one commit, which each node (with runtime.kubeRay each pod) fetches once."""

    repo: Annotated[
        str,
        Field(
            max_length=193,
            json_schema_extra=required_with_cure("spec.model.source.huggingFace.repo is missing: write e.g. repo: a/b")
            | validations(
                Rule(
                    rule=f"self.matches('{_REPO}')",
                    message="spec.model.source.huggingFace.repo is %s: write organisation/model as on the hub",
                    values=(QUOTED_SELF,),
                )
            ),
        ),
    ]
    """Its name, `organisation/model`."""
    revision: Annotated[
        str,
        Field(
            max_length=256,
            json_schema_extra=required_with_cure(
                "spec.model.source.huggingFace.revision is missing: write the commit's 40 hexadecimal digits"
            )
            | validations(
                Rule(
                    rule="self.matches('^[0-9a-f]{40}$')",
                    message=(
                        "spec.model.source.huggingFace.revision is %s: write a commit's 40 hexadecimal digits, as the "
                        "hub shows them under Files; what a branch or tag names may change"
                    ),
                    values=(QUOTED_SELF,),
                )
            ),
        ),
    ]
    """A commit, 40 hexadecimal digits: processes that start later must find the same model."""
    token_secret_ref: SecretRef | None = None
    """Secret, labelled `moe-operator.io/use: model-source`, whose key `token` is a token of the hub that may read the \
repository; with runtime.kubeRay, whose pods read it themselves. Default: the node's own access (HF_TOKEN)."""


class Download(ApiModel):
    """A folder on a web server or in an object store, which each node (with runtime.kubeRay each pod) fetches once. \
Its file SHA256SUMS, written by `sha256sum * > SHA256SUMS`, says what is in it."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule(
                rule="!has(self.url) || self.url.startsWith('s3://') == has(self.endpoint)",
                message=(
                    "spec.model.source.download.endpoint: an s3:// URL needs the address of its store, such as "
                    "https://s3.eu-central-1.amazonaws.com, and an https:// URL has none"
                ),
                field_path=".endpoint",
            )
        )
    )

    url: Annotated[
        str,
        Field(
            max_length=2048,
            json_schema_extra=required_with_cure(
                "spec.model.source.download.url is missing: write e.g. url: https://models.example.org/tiny"
            )
            | validations(
                Rule(
                    rule=f"self.matches('{_FOLDER}')",
                    message=(
                        "spec.model.source.download.url is %s: it must be the https:// or s3:// URL of a folder, "
                        "without query, fragment or credentials, such as https://models.example.org/tiny or "
                        "s3://bucket/tiny"
                    ),
                    values=(QUOTED_SELF,),
                )
            ),
        ),
    ]
    """The folder, `https://…` or `s3://bucket/…`. The files of the checkpoint lie right in it."""
    endpoint: Annotated[
        Url | None,
        Field(
            max_length=512,
            json_schema_extra=validations(
                *http_url("spec.model.source.download.endpoint", "https://s3.eu-central-1.amazonaws.com")
            ),
        ),
    ] = None
    """Where the object store of an s3:// URL answers; the region is taken from a host such as \
s3.eu-central-1.amazonaws.com, else it is us-east-1."""
    sha256: Annotated[
        str,
        Field(
            max_length=128,
            json_schema_extra=required_with_cure(
                "spec.model.source.download.sha256 is missing: write what sha256sum SHA256SUMS prints"
            )
            | validations(
                Rule(
                    rule="self.matches('^[0-9a-f]{64}$')",
                    message=(
                        "spec.model.source.download.sha256 is %s: write the 64 hexadecimal digits, in lower case, that "
                        "sha256sum SHA256SUMS prints"
                    ),
                    values=(QUOTED_SELF,),
                )
            ),
        ),
    ]
    """SHA-256 of SHA256SUMS in the folder: processes that start later must find the same model."""
    secret_ref: SecretRef | None = None
    """Secret, labelled `moe-operator.io/use: model-source`: with `token`, sent as a bearer token, or for s3:// \
with `accessKeyId`, `secretAccessKey` and perhaps `sessionToken`; with runtime.kubeRay, whose pods read it themselves. \
Default: everybody is let in."""

    @property
    def reference(self) -> str:
        """As the data plane reads it."""
        said = {"sha256": self.sha256} | ({"endpoint": self.endpoint} if self.endpoint else {})
        return f"{self.url.rstrip('/')}#{urlencode(said)}"


MODEL_FOLDER = "/var/lib/moe-operator/model"
"""Below which pods have a claim or an image that holds the model."""


def _mounted_at(kind: str, name: str) -> str:
    """Another one for each claim and image: another model has another path."""
    return f"{MODEL_FOLDER}/{hashlib.sha256(f'{kind} {name}'.encode()).hexdigest()[:12]}"


class Claim(ApiModel):
    """A PersistentVolumeClaim of the namespace, mounted read-only in the pods that read the model. Where these are on \
several nodes, its access mode must be ReadOnlyMany or ReadWriteMany."""

    claim_name: Annotated[
        ObjectName,
        Field(
            json_schema_extra=required_with_cure(
                "spec.model.source.pvc.claimName is missing: write e.g. claimName: models"
            )
        ),
    ]
    """The PersistentVolumeClaim."""
    path: InnerPath = ""
    """Folder of the checkpoint in the volume. Default: its root."""

    @property
    def mounted_at(self) -> str:
        """Where pods have it."""
        return _mounted_at("pvc", self.claim_name)


class Image(ApiModel):
    """An image of a registry with the checkpoint in it, mounted read-only in the pods that read the model. Nodes pull \
it with runtime.kubeRay.imagePullSecrets, and need Kubernetes' feature ImageVolume."""

    reference: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            json_schema_extra=required_with_cure(
                "spec.model.source.image.reference is missing: write e.g. reference: registry.example.org/tiny:1"
            )
            | validations(
                Rule(
                    rule="self.matches('^[A-Za-z0-9][A-Za-z0-9._:@/-]*$')",
                    message=(
                        "spec.model.source.image.reference is %s: it is no name of an image; write e.g. "
                        "reference: registry.example.org/tiny:1"
                    ),
                    values=(QUOTED_SELF,),
                )
            ),
        ),
    ]
    """Name of the image, best with a digest (@sha256:…): what a tag names may change under pods that start later."""
    path: InnerPath = ""
    """Folder of the checkpoint in the image. Default: its root."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull it."""

    @property
    def mounted_at(self) -> str:
        """Where pods have it."""
        return _mounted_at("image", self.reference)


_KINDS = ("path", "huggingFace", "download", "pvc", "image")


@dataclass(frozen=True, slots=True)
class SourceSecret:
    """A Secret that pods read to reach a model.

    Attributes:
        field: of the spec that names it.
        keys: that it must have.
    """

    field: str
    name: str
    keys: tuple[str, ...]


class ModelSource(ApiModel):
    """Where the checkpoint is. Exactly one field is set."""

    model_config = ConfigDict(json_schema_extra=validations(exactly_one_of("spec.model.source", _KINDS, SOURCE_CURE)))

    path: Annotated[
        Text | None,
        Field(
            min_length=1,
            max_length=4096,
            json_schema_extra=validations(without_control_characters("spec.model.source.path")),
        ),
    ] = None
    """Directory of a transformers checkpoint as the nodes of the Ray cluster see it; a relative one is relative to \
the working directory of Ray."""
    hugging_face: HuggingFace | None = None
    """A repository of Hugging Face at one commit, which each node (with runtime.kubeRay each pod) fetches once."""
    download: Download | None = None
    """A folder on a web server or in an object store, which each node (with runtime.kubeRay each pod) fetches once. \
Its file SHA256SUMS, written by `sha256sum * > SHA256SUMS`, says what is in it."""

    pvc: Claim | None = None
    """A PersistentVolumeClaim of the namespace, with runtime.kubeRay; mounted read-only."""
    image: Image | None = None
    """An image of a registry, with runtime.kubeRay; mounted read-only as a volume."""

    @property
    def reference(self) -> str:
        """Where the data plane finds it: a directory, ``hf://repository@commit``, or a folder's address with its
        checksum.

        Raises:
            InvalidObjectError: it names no source.
        """
        if self.path is not None:
            return self.path
        if self.hugging_face is not None:
            return f"hf://{self.hugging_face.repo}@{self.hugging_face.revision}"
        if self.download is not None:
            return self.download.reference
        if (mounted := self.pvc or self.image) is not None:
            return f"{mounted.mounted_at}/{mounted.path}".rstrip("/")
        raise InvalidObjectError(f"spec.model.source names no source: {SOURCE_CURE}")

    @property
    def secret(self) -> SourceSecret | None:
        """The Secret that pods read to reach it."""
        if self.hugging_face is not None and (ref := self.hugging_face.token_secret_ref) is not None:
            return SourceSecret("spec.model.source.huggingFace.tokenSecretRef", ref.name, (MODEL_TOKEN,))
        if self.download is not None and (ref := self.download.secret_ref) is not None:
            keys = MODEL_ACCESS_KEYS if self.download.endpoint else (MODEL_TOKEN,)
            return SourceSecret("spec.model.source.download.secretRef", ref.name, keys)
        return None

    def refused_on_ray_cluster(self) -> str | None:
        """Why it cannot be read by an existing Ray cluster."""
        given = self.model_dump(by_alias=True, exclude_none=True)
        return next((each.message for each in _OF_PODS if each.is_in(given)), None)


@dataclass(frozen=True, slots=True)
class _OfPods:
    """A field below ``spec.model.source`` that only pods of the deployment's own can follow."""

    field: str
    why: str

    @property
    def message(self) -> str:
        return f"spec.model.source.{self.field} needs runtime.kubeRay: {self.why}"

    def is_in(self, source: Any) -> bool:
        for name in self.field.split("."):
            if not isinstance(source, Mapping) or name not in source:
                return False
            source = source[name]
        return True

    def rule(self) -> Rule:
        """On ``spec``."""
        names = ("model", "source", *self.field.split("."))
        there = " && ".join(f"has(self.{'.'.join(names[: end + 1])})" for end in range(len(names)))
        return Rule(
            rule=f"!has(self.runtime) || !has(self.runtime.rayCluster) || !({there})",
            message=self.message,
            field_path=f".{'.'.join(names)}",
        )


_READ_BY_PODS = "its pods read the Secret themselves, and what an existing Ray cluster is told is for everybody to read"
_OF_PODS = (
    _OfPods("huggingFace.tokenSecretRef", f"{_READ_BY_PODS}; set HF_TOKEN on its nodes"),
    _OfPods("pvc", "a claim is mounted in its pods; mount it on the nodes of Ray, and give source.path"),
    _OfPods("image", "an image is mounted in its pods; unpack it on the nodes of Ray, and give source.path"),
    _OfPods("download.secretRef", f"{_READ_BY_PODS}; copy the model to its nodes, and give source.path"),
)


def of_pods_only() -> Iterator[Rule]:
    """Rules on ``spec``: what an existing Ray cluster cannot follow is refused there."""
    return (each.rule() for each in _OF_PODS)


def _mounts(spec: str) -> str:
    source = f"{spec}.model.source"
    return f"(has({spec}.model) && has({source}) && (has({source}.pvc) || has({source}.image)))"


MOUNTED_SOURCE = Rule(
    # New pods would not have the model that runs, nor those that run the new one.
    rule=(
        f"!({_mounts('self')} || {_mounts('oldSelf')}) || self.experts.shards == 0 "
        "|| (has(self.model) && has(oldSelf.model) && self.model.source == oldSelf.model.source)"
    ),
    message=(
        "spec.model.source: a claim or an image that pods mount can change while nothing runs: set "
        "spec.experts.shards to 0 with it, and back once status.shards is 0"
    ),
    field_path=".model.source",
    reason="FieldValueForbidden",
)
