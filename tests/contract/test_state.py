"""What is kept of Serve's answer, and what of it is refused."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_contract.applications import CORE_IMPORT_PATH
from moe_contract.serve import state as module
from moe_contract.serve.config import JsonConfig, as_json, values_at_most
from moe_contract.serve.state import StateTooLargeError, read_state

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def answer(**applications: Any) -> bytes:
    return json.dumps({"applications": applications}).encode()


def application(config: Any = None, **fields: Any) -> dict[str, Any]:
    return {"status": "RUNNING", "deployed_app_config": {"import_path": "a:b"} if config is None else config, **fields}


@given(st.dictionaries(st.text(), VALUES))
def test_a_configuration_is_put_back_as_it_was_told(config: dict[str, Any]) -> None:
    found = read_state(json.dumps({"applications": {"a": application(config)}}).encode()).applications["a"].config
    assert json.loads(as_json(found)) == config
    told = {k: v for k, v in config.items() if k not in ("name", "route_prefix", "import_path")}
    assert {key: found[key] for key in told} == told
    assert values_at_most(as_json(found)) >= len(config)


def test_a_configuration_is_equal_to_what_it_says() -> None:
    fields = {"name": "a", "route_prefix": None, "import_path": "x:y", "args": {"n": [1, 2.5, "ü"]}}
    config = JsonConfig.of(fields)
    for same in (
        fields,
        JsonConfig.of(fields),
        JsonConfig.of(dict(reversed(fields.items()))),
        pickle.loads(pickle.dumps(config)),
    ):
        assert config == same
        assert same == config
        assert {"a": same} == {"a": config}
    for other in ({**fields, "args": {}}, JsonConfig.of({}), None, 7):
        assert config != other
    assert dict(config) == fields
    assert "args" in config
    assert config.get("more") is None
    assert "route_prefix" not in JsonConfig.of({"route_prefix": ["no text"]})._told


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            answer(**{f"a{number}": application() for number in range(module.MOST_APPLICATIONS + 1)}),
            "8193 applications",
        ),
        (answer(**{"a" * (module.MOST_NAME + 1): application()}), "name has 1025 characters"),
        (answer(a=application({"args": "x" * module.MOST_KEPT})), "6 MiB of configurations"),
        (answer(**{f"a{n}": application({"args": "ü" * 1000}) for n in range(1100)}), "6 MiB of configurations"),
        (
            json.dumps({"applications": {}, "http_options": {"x": "x" * module.MOST_KEPT}}).encode(),
            "6 MiB of configurations",
        ),
        (
            answer(a=application({"import_path": CORE_IMPORT_PATH, "args": [0] * (module.MOST_VALUES + 1)})),
            "values in options and applications of ours",
        ),
        (
            json.dumps({"applications": {}, "http_options": {"x": [[]] * module.MOST_VALUES}}).encode(),
            "values in options and applications of ours",
        ),
        (b"[" * 1_000_000, "nested too deep"),
        (b'{"applications":' * 200_000, "nested too deep"),
    ],
)
def test_what_is_more_than_can_be_worked_with_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(StateTooLargeError, match=says) as caught:
        read_state(body)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"applications": []}', b"\xff", b"1" * 10_000, b"NaN"])
def test_what_is_no_answer_of_serve(body: bytes) -> None:
    with pytest.raises(ValueError, match="not the JSON expected"):
        read_state(body)


def test_a_foreign_configuration_of_any_size_that_is_kept_is_never_read() -> None:
    found = read_state(answer(a=application({"import_path": "x:y", "args": [[]] * 500_000})))
    assert found.applications["a"].config._fields is None
    assert found.size < module.MOST_KEPT


def test_what_is_looked_into_counts_with_what_it_takes_in_memory() -> None:
    many = read_state(answer(a=application({"import_path": CORE_IMPORT_PATH, "args": [[]] * 50_000})))
    few = read_state(answer(a=application({"import_path": CORE_IMPORT_PATH, "args": "x" * 150_000})))
    assert many.size > 10 * few.size


def test_of_a_long_message_the_end_is_kept() -> None:
    traceback = "Traceback\n" * 1000 + "No module named 'moe_serving'"
    deployments = {f"d{number}": {"message": traceback} for number in range(1000)}
    found = read_state(answer(a=application(message=traceback, deployments=deployments))).applications["a"]
    assert found.message.endswith("No module named 'moe_serving'")
    assert {len(text) for text in (found.message, *found.problems.values())} == {2000}
    assert len(found.problems) == 64
