"""What the operator writes of a model's source is what the data plane reads."""

import pytest

from moe_operator.api.model_source import ModelSource
from moe_serving.fetching.source import Folder, Repository, Source, source_of

SUM = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ({"path": "models/tiny"}, None),
        ({"huggingFace": {"repo": "a/b", "revision": SUM[:40]}}, Repository("a/b", SUM[:40])),
        ({"download": {"url": "https://a:1/b%20c/", "sha256": SUM}}, Folder("https://a:1/b%20c", SUM)),
        (
            {"download": {"url": "s3://a/b(c)", "endpoint": "http://[::1]:9000/", "sha256": SUM}},
            Folder("s3://a/b(c)", SUM, "http://[::1]:9000"),
        ),
    ],
)
def test_written_and_read(source: dict[str, object], read: Source | None) -> None:
    assert source_of(ModelSource.model_validate(source).reference) == read
