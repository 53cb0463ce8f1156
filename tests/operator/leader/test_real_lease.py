"""Contenders on a real API server, with times as short as a busy machine allows."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from moe_dev.kube import Kubectl
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import NotFoundError
from moe_operator.kube.resources import LEASES
from moe_operator.leader import Elector, LeaseSettings

pytestmark = pytest.mark.e2e

TIMES: dict[str, Any] = {"duration": 6, "renew_deadline": 3.5, "retry_period": 0.3, "request_timeout": 2.0}
WAIT_SECONDS = 60

# Leads until it may not: what a frozen process does when it is woken.
LEADER = f"""
import asyncio, sys
from pathlib import Path
from moe_operator.errors import LeadershipLostError
from moe_operator.kube.client import KubeClient
from moe_operator.leader import Elector, LeaseSettings

async def main():
    async with await KubeClient.connect(Path(sys.argv[1])) as client:
        elector = Elector(client, LeaseSettings(sys.argv[2], "lease", "frozen", **{TIMES}))
        await elector.acquire()
        print("leader", flush=True)
        try:
            await elector.hold()
        except LeadershipLostError as lost:
            print(lost, flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def client(kube: Kubectl) -> AsyncIterator[KubeClient]:
    async with await KubeClient.connect(kube.kubeconfig) as client:
        yield client


def contender(client: KubeClient, namespace: str, identity: str) -> Elector:
    return Elector(client, LeaseSettings(namespace, "lease", identity, **TIMES))


async def holder(client: KubeClient, namespace: str) -> str:
    lease = await client.get(LEASES, namespace, "lease")
    return str(lease["spec"]["holderIdentity"])


async def found_again(client: KubeClient, namespace: str) -> dict[str, Any]:
    for _ in range(WAIT_SECONDS * 10):
        try:
            return await client.get(LEASES, namespace, "lease")
        except NotFoundError:
            await asyncio.sleep(0.1)
    pytest.fail(f"waited {WAIT_SECONDS} s for the Lease to be made anew")


async def test_of_two_contenders_one_leads_and_the_other_follows_when_it_leaves(
    client: KubeClient, namespace: str
) -> None:
    electors = {identity: contender(client, namespace, identity) for identity in ("a", "b")}
    tasks = {asyncio.create_task(elector.acquire()): identity for identity, elector in electors.items()}
    done, waiting = await asyncio.wait(tasks, timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(waiting)) == (1, 1)
    first, second = (electors[tasks[group.copy().pop()]] for group in (done, waiting))
    holding = asyncio.create_task(first.hold())
    await asyncio.sleep(2 * TIMES["retry_period"])
    assert await holder(client, namespace) == tasks[done.copy().pop()]
    assert first.deadline_ok()
    assert not second.deadline_ok()
    holding.cancel()
    await first.release()
    await asyncio.wait_for(waiting.pop(), timeout=WAIT_SECONDS)
    assert not first.deadline_ok()
    second.check()


async def test_a_frozen_process_loses_the_lease_and_ends_when_it_wakes(
    client: KubeClient, kube: Kubectl, namespace: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LEADER, str(Path(kube.kubeconfig)), namespace), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), timeout=WAIT_SECONDS) == b"leader\n"
        os.kill(process.pid, signal.SIGSTOP)
        other = contender(client, namespace, "other")
        await asyncio.wait_for(other.acquire(), timeout=WAIT_SECONDS)
        os.kill(process.pid, signal.SIGCONT)
        said = await asyncio.wait_for(process.stdout.read(), timeout=WAIT_SECONDS)
        assert b"is not ours or was not renewed" in said
        assert await holder(client, namespace) == "other"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_deleted_lease_is_made_anew_by_its_holder(client: KubeClient, kube: Kubectl, namespace: str) -> None:
    elector = contender(client, namespace, "a")
    await elector.acquire()
    holding = asyncio.create_task(elector.hold())
    try:
        before = await client.get(LEASES, namespace, "lease")
        await asyncio.to_thread(kube.run, "delete", "lease", "lease", "-n", namespace)
        after = await found_again(client, namespace)
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["spec"]["holderIdentity"] == "a"
        elector.check()
    finally:
        holding.cancel()
