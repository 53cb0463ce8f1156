"""Other planes: over TCP, beside another, and with a model that cannot be served."""

import json
import shutil
import time
from pathlib import Path

import pytest
from load import VOCABULARY, compare_with_reference, complete, complete_all
from openai import InternalServerError, OpenAI
from reference import prompts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def client_of(plane) -> OpenAI:
    return OpenAI(base_url=f"{plane.url}/v1", api_key=plane.api_key, max_retries=0, timeout=180)


def test_everything_over_tcp_and_verified_bit_for_bit(another_plane, tiny) -> None:
    plane = another_plane("serving-tcp", tiny, network="tcp", verify=True)
    plane.deploy_core()
    loading = plane.wait(lambda report: report.attention, "an attention replica").attention
    assert [(replica.ready, replica.problem) for replica in loading] == [(False, None)], "loading is no problem"
    plane.scale(2)
    plane.wait_ready()
    with client_of(plane) as client:
        answers = complete_all(client, prompts(32, vocabulary=VOCABULARY), 64)
        print(compare_with_reference(tiny, client, answers, 64))


def test_a_model_that_cannot_be_served_is_told_and_crashes_nothing(another_plane, tmp_path) -> None:
    plane = another_plane("serving-nothing", tmp_path / "nowhere")
    plane.deploy_core()
    report = plane.wait(lambda report: report.model_problem, "the model's problem")
    assert report.model_problem.reason == "PathNotFound"
    status, text = plane.get("/healthz")
    assert status == 503
    assert f"model path {tmp_path / 'nowhere'} does not exist" in text
    with client_of(plane) as client, pytest.raises(InternalServerError) as refused:
        client.completions.create(model="tiny", prompt="x")
    assert refused.value.status_code == 503
    assert refused.value.response.headers["retry-after"] == "1"
    before = plane.pids()
    report = plane.wait(lambda report: report.attention and report.attention[0].problem, "the replica's problem")
    assert f"{tmp_path / 'nowhere'} does not exist" in report.attention[0].problem
    assert plane.pids() == before


@pytest.mark.long
def test_a_replica_that_cannot_load_the_model_gets_no_calls(another_plane, tiny, tmp_path) -> None:
    """Its node lost the model, say. Serve prefers the replica with the fewest calls, which is one that rejects them."""
    model = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    plane = another_plane("serving-half", model)
    plane.scale(1)
    plane.wait_ready()
    config = (model / "config.json").read_bytes()
    (model / "config.json").unlink()
    plane.set_attention(replicas=2)
    report = plane.wait(lambda report: any(replica.problem for replica in report.attention), "the second's problem")
    assert [replica.problem is None for replica in report.attention if replica.ready] == [True]
    assert [f"{model} has no config.json" in (r.problem or "") for r in report.attention if not r.ready] == [True]
    time.sleep(3)  # by now Serve would have it among those that it sends calls to
    assert plane.states("attention") == ["RUNNING", "STARTING"]
    with client_of(plane) as client:
        assert complete(client, (5, 6, 7), 2)
    (model / "config.json").write_text(json.dumps(json.loads(config) | {"rms_norm_eps": 1e-3}))
    plane.wait(lambda report: any("another checkpoint" in (r.problem or "") for r in report.attention), "the digest")
    assert plane.states("attention") == ["RUNNING", "STARTING"]
    (model / "config.json").write_bytes(config)
    report = plane.wait(lambda report: sum(replica.ready for replica in report.attention) == 2, "the second replica")
    assert [replica.problem for replica in report.attention] == [None, None]
    plane.wait(lambda report: plane.states("attention") == ["RUNNING", "RUNNING"], "Serve to use both")


def test_a_refused_user_config_is_told_by_whom_it_was_meant_for(plane) -> None:
    before = plane.pids()
    plane.spoilt = {"api": {"max_context": -1}, "attention": {"max_running": 0}, "experts": {"spare_slots": 0}}
    plane.put_again()
    try:
        report = plane.wait(
            lambda report: (
                report.refused
                and all(replica.problem for replica in report.attention)
                and all(shard.problem for shard in report.shards)
            ),
            "all to tell",
        )
    finally:
        plane.spoilt = {}
        plane.put_again()
    assert report.refused.startswith("user_config of the api is refused: max_context: ")
    for replica in report.attention:
        assert replica.ready
        assert replica.problem.startswith("user_config of attention is refused, the old one stays: max_running: ")
    for shard in report.shards:
        assert shard.phase == "Ready"
        assert shard.problem.startswith("user_config of the shard is refused, the old one stays: spare_slots: ")
    plane.wait(
        lambda report: not (report.refused or any(each.problem for each in (*report.attention, *report.shards))),
        "all to be content again",
    )
    assert plane.pids() == before
