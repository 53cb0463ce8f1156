"""Which files of a repository are fetched."""

import pytest

from moe_serving.fetching.files import first_files, has_index, weight_files

INDEX = "model.safetensors.index.json"
SMALL = ["config.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("names", "index", "first", "weights"),
    [
        ([*SMALL, "model.safetensors", "README.md", "pytorch_model.bin"], {}, SMALL, ("model.safetensors",)),
        # transformers prefers a single file to an index beside it
        ([*SMALL, "model.safetensors", INDEX], {}, ["config.json", INDEX, "tokenizer.json"], ("model.safetensors",)),
        (
            [*SMALL, INDEX, "a.safetensors", "b.safetensors", "consolidated.safetensors", "original/config.json"],
            {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"},
            ["config.json", INDEX, "tokenizer.json"],
            ("a.safetensors", "b.safetensors"),
        ),
        (["chat_template.jinja", "merges.txt", "tokenizer.model", "run.py"], {}, None, ()),
    ],
)
def test_what_is_fetched(names, index, first, weights) -> None:
    assert first_files(names) == tuple(first or names[:3])
    assert weight_files(names, index) == weights
    assert has_index(names) == bool(index)
