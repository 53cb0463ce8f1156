"""Other planes: over TCP, beside another, and with a model that cannot be served."""

import pytest
from load import compare_with_reference, complete
from openai import InternalServerError, OpenAI

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def client_of(plane) -> OpenAI:
    return OpenAI(base_url=f"{plane.url}/v1", api_key=plane.api_key, max_retries=0, timeout=60)


def test_everything_over_tcp_and_verified_bit_for_bit(another_plane, tiny) -> None:
    plane = another_plane("serving-tcp", tiny, network="tcp", verify=True)
    plane.deploy_core()
    loading = plane.wait(lambda report: report.attention, "an attention replica").attention
    assert [(replica.ready, replica.problem) for replica in loading] == [(False, None)], "loading is no problem"
    plane.scale(2)
    plane.wait_ready()
    prompts = [tuple(range(5 * i + 3, 6 * i + 9)) for i in range(4)]
    with client_of(plane) as client:
        answers = [(prompt, complete(client, prompt, 32)) for prompt in prompts]
        print(compare_with_reference(tiny, client, answers, 32))


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
