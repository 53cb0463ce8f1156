"""The edge itself: errors, bounds, pages and the fence."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from kubeconfigs import kubeconfig

from moe_dev.controlplane import ControlPlane
from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment
from moe_operator.errors import LeadershipLostError, OperatorError
from moe_operator.kube import client as module
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import AlreadyExistsError, ForbiddenError, KubeError, KubeUnreachableError, NotFoundError
from moe_operator.kube.resources import EXPERT_PLACEMENTS, LEASES, MOE_DEPLOYMENTS, SECRETS


@pytest.mark.e2e
async def test_refusals_are_told_apart_in_the_words_of_the_api_server(
    controlplane: ControlPlane, client: KubeClient, owner: MoEDeployment, namespace: str
) -> None:
    with pytest.raises(NotFoundError, match='"nothing" not found'):
        await client.get(SECRETS, namespace, "nothing")
    with pytest.raises(ForbiddenError, match='cannot get resource "leases"'):
        await client.get(LEASES, namespace, "anything")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace, "name": "s"}}
    await client.create(SECRETS, secret)
    with pytest.raises(AlreadyExistsError, match='"s" already exists'):
        await client.create(SECRETS, secret)
    with pytest.raises(KubeError, match=r"spec\.experts\.shards") as caught:
        await client.merge_patch(MOE_DEPLOYMENTS, namespace, "tiny", {"spec": {"experts": {"shards": -1}}})
    assert caught.value.status == 422


@pytest.mark.e2e
async def test_lists_are_read_in_pages(
    client: KubeClient,
    owner: MoEDeployment,
    other_owner: MoEDeployment,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAGE_SIZE", 1)
    found = (await client.list(MOE_DEPLOYMENTS, namespace)).items
    assert [item["metadata"]["name"] for item in found] == ["other", "tiny"]
    everywhere = await client.list(MOE_DEPLOYMENTS)
    keys = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in everywhere.items}
    assert int(everywhere.version) >= max(int(item["metadata"]["resourceVersion"]) for item in everywhere.items)
    # Of all that is known of who set what, no more than who set the number of shards.
    shards = {"f:spec": {"f:experts": {"f:shards": {}}}}
    assert all(
        each["fieldsV1"] == shards for item in everywhere.items for each in item["metadata"].get("managedFields", [])
    )
    assert {(namespace, "other"), (namespace, "tiny")} <= keys


@pytest.mark.e2e
async def test_the_fence_is_asked_before_each_write_and_before_no_read(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    def closed() -> None:
        raise LeadershipLostError("not the leader")

    fenced = client.fenced(closed)
    live = await fenced.get(MOE_DEPLOYMENTS, namespace, "tiny")
    for write in (
        fenced.create(MOE_DEPLOYMENTS, live),
        fenced.replace(MOE_DEPLOYMENTS, live, subresource="status"),
        fenced.merge_patch(MOE_DEPLOYMENTS, namespace, "tiny", {"spec": {"suspend": True}}),
        fenced.apply(MOE_DEPLOYMENTS, live),
    ):
        with pytest.raises(LeadershipLostError):
            await write
    assert kube.get("moe", "tiny", namespace) == {**live, "metadata": _unmanaged(live)}


def _unmanaged(live: dict[str, dict[str, object]]) -> dict[str, object]:
    """As kubectl shows it."""
    return {key: value for key, value in live["metadata"].items() if key != "managedFields"}


async def test_an_api_server_that_is_not_there(tmp_path: Path, closed_address: str) -> None:
    async with await KubeClient.connect(kubeconfig(tmp_path / "k", closed_address)) as client:
        with pytest.raises(KubeUnreachableError, match="GET /api/v1/namespaces/n/secrets/s: Cannot connect"):
            await client.get(SECRETS, "n", "s")


async def test_an_api_server_that_never_answers_is_given_up_in_time(tmp_path: Path, black_hole: str) -> None:
    async with await KubeClient.connect(kubeconfig(tmp_path / "k", black_hole), request_seconds=0.2) as client:
        async with asyncio.timeout(30):
            with pytest.raises(KubeUnreachableError, match=r"no answer within 0\.2 s"):
                await client.get(SECRETS, "n", "s")


async def test_something_that_is_no_api_server(tmp_path: Path) -> None:
    async def greet(request: web.BaseRequest) -> web.Response:
        return web.Response(text="<html>welcome</html>")

    async with (
        RawTestServer(greet) as server,
        await KubeClient.connect(kubeconfig(tmp_path / "k", str(server.make_url("")))) as client,
    ):
        with pytest.raises(KubeError, match="'<html>welcome</html>' is not JSON: is the server's address"):
            await client.get(SECRETS, "n", "s")


async def test_large_objects_come_few_at_a_time_and_one_to_learn_whether_there_is_the_kind(tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    async def empty(request: web.BaseRequest) -> web.Response:
        asked.append((request.path.rpartition("/")[2], request.query.get("limit")))
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})

    async with (
        RawTestServer(empty) as server,
        await KubeClient.connect(kubeconfig(tmp_path / "k", str(server.make_url("")))) as client,
    ):
        await client.list(MOE_DEPLOYMENTS)
        await client.list(EXPERT_PLACEMENTS)
        await client.try_list(EXPERT_PLACEMENTS)
    assert asked == [("moedeployments", "100"), ("expertplacements", "8"), ("expertplacements", "1")]


@pytest.mark.parametrize("content", [None, "{}", "no: [yaml"])
async def test_no_usable_credentials_are_an_error_with_the_cure(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OperatorError, match=r"(?s)no access to Kubernetes: .*set KUBECONFIG"):
        await KubeClient.connect(path)
