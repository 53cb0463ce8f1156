"""``generation_config.json``: what holds for requests that say nothing, and what is told as unused."""

import json
import logging
import shutil

import pytest

from moe_serving.api.defaults import read_defaults

COMPLETION = {"model": "model", "prompt": "the fox"}
QWEN = {
    "bos_token_id": 1,
    "do_sample": True,
    "eos_token_id": [2, 3],
    "pad_token_id": 1,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "repetition_penalty": 1.05,
    "transformers_version": "4.51.0",
}


@pytest.mark.parametrize(
    ("content", "sampling", "unused"),
    [
        (None, {}, ()),
        ({}, {}, ()),
        (QWEN, {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}, ()),
        ({"temperature": None, "min_p": 0.1, "top_k": 0}, {"min_p": 0.1, "top_k": 0}, ()),
        ({"do_sample": False, "max_new_tokens": 2048}, {}, ("do_sample", "max_new_tokens")),
        (
            {"no_repeat_ngram_size": 3, "num_beams": 1, "typical_p": 1.0, "use_cache": True},
            {},
            ("no_repeat_ngram_size",),
        ),
        ({"temperature": "hot", "top_p": 1.5, "top_k": True}, {}, ("temperature", "top_k", "top_p")),
        ({"new_in_transformers_9": 1, "_from_model_config": True}, {}, ("new_in_transformers_9",)),
        ({"x" * 100: 1}, {}, ("x" * 64 + "…",)),
    ],
    ids=str,
)
def test_what_is_read(tmp_path, content, sampling, unused) -> None:
    if content is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
    defaults = read_defaults(str(tmp_path))
    assert (defaults.sampling, defaults.unused) == (sampling, unused)


def test_what_is_told_is_bounded(tmp_path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({f"field{n}": n for n in range(1000)}))
    assert len(read_defaults(str(tmp_path)).unused) == 32


@pytest.fixture
async def makers(api, checkpoint, tmp_path, eventually):
    """An api whose model has a ``generation_config.json``."""
    path = shutil.copytree(checkpoint, tmp_path / "model")
    (path / "generation_config.json").write_text(json.dumps(QWEN | {"max_length": 99}))
    made = type(api)(path)
    async with made.running():
        await eventually(lambda: made.service.problem is None, "the api to be ready")
        yield made


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0.6, 20, 0.95, 0.0, 1.05)),
        ({"temperature": 0}, (0.0, 20, 0.95, 0.0, 1.05)),
        ({"temperature": None, "top_k": -1, "top_p": 1.0}, (0.6, 0, 1.0, 0.0, 1.05)),
        ({"temperature": 1, "top_k": 5, "top_p": 0.5, "min_p": 0.2, "repetition_penalty": 1}, (1.0, 5, 0.5, 0.2, 1.0)),
    ],
    ids=str,
)
async def test_requests_that_do_not_name_it_are_sampled_as_the_makers_say(makers, fields, expected) -> None:
    makers.answer_with(" dog")
    async with makers.client() as client:
        assert (await client.post("/v1/completions", json=COMPLETION | fields)).status_code == 200
    how = makers.source.asked[0].sampling
    assert (how.temperature, how.top_k, how.top_p, how.min_p, how.repetition_penalty) == expected


async def test_it_can_be_switched_off_while_it_runs(makers) -> None:
    makers.answer_with(" dog")
    async with makers.client() as client:
        model = (await client.get("/v1/models/model")).json()
        assert model["generation_defaults"] == {
            "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05,
        }  # fmt: skip
        assert model["generation_config_unused"] == ["max_length"]
        makers.service.configure({"served_name": "model", "generation_defaults": "None"})
        model = (await client.get("/v1/models/model")).json()
        assert (model["generation_defaults"], model["generation_config_unused"]) == ({}, [])
        assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200
    how = makers.source.asked[0].sampling
    assert (how.temperature, how.top_k, how.top_p, how.repetition_penalty) == (1.0, 0, 1.0, 1.0)


async def test_what_is_not_used_is_logged(api, checkpoint, tmp_path, eventually, caplog) -> None:
    path = shutil.copytree(checkpoint, tmp_path / "model")
    (path / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.5}))
    caplog.set_level(logging.INFO, "moe_serving")
    made = type(api)(path)
    async with made.running():
        await eventually(lambda: "is not used here: do_sample" in caplog.text, "the log to name it")
    assert "are sampled with {'temperature': 0.5}" in caplog.text


async def test_a_damaged_file_is_told(api, checkpoint, tmp_path, eventually) -> None:
    path = shutil.copytree(checkpoint, tmp_path / "model")
    (path / "generation_config.json").write_text("[1]")
    made = type(api)(path)
    async with made.running():
        await eventually(lambda: "holds a list" in (made.service.problem or ""), "the problem to be told")
