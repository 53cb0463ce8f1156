"""The cluster that these tests run on: nodes of our own, or the one that KUBECONFIG names.

Without root, and without KUBECONFIG, none of them runs, and one line at the end says so.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed import HEAD, SYSTEM, TOKEN_SECONDS, Deployed, start
from figures import Figures
from real_nodes import IMAGE, Nodes

from moe_dev import binaries
from moe_dev.helm import CHART, Helm
from moe_dev.kube import Kubectl
from moe_dev.node.cluster import Cluster, ClusterError, check

NODES = int(os.environ.get("NODES", "2"))

TEST_SECONDS = 1800.0

_not_run: list[str] = []
_figures = Figures()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that start a cluster by themselves come first: there is one at a time; who costs it a node comes last.
    Their own waits, and those of the fixtures, end before pytest does it to them without a word of what they waited
    for."""
    for item in items:
        if item.get_closest_marker("node"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))
    items.sort(key=lambda item: (_has(item, "dying"), not _has(item, "no_cluster")))


def _has(item: pytest.Item, fixture: str) -> bool:
    return fixture in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def can_start() -> None:
    """Skips what needs nodes of our own where this machine cannot have them."""
    try:
        check(NODES)
    except ClusterError as error:
        _not_run.append(str(error))
        pytest.skip(str(error))


@pytest.fixture
def no_cluster(can_start: None) -> None:
    """For tests that start one: none of ours runs yet."""


@pytest.fixture(scope="session")
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    if given := os.environ.get("KUBECONFIG"):
        kubectl = Kubectl(binaries.binary(binaries.KUBECTL), Path(given))
        names = kubectl.run("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()
        yield Nodes(kubectl, tuple(names), None)
        return
    request.getfixturevalue("can_start")
    with Cluster.start(NODES) as cluster:
        yield Nodes(cluster.kubectl, cluster.nodes, cluster)


@pytest.fixture
def dying(nodes: Nodes, deployed: Deployed) -> str:
    """The node that a test may lose, for good: the one without Ray's head."""
    if nodes.own is None or len(nodes.names) != 2:
        pytest.skip("it takes two nodes of our own")
    (head,) = deployed.nodes_of(HEAD).values()
    return next(name for name in nodes.names if name != head)


@pytest.fixture
def namespace(nodes: Nodes) -> Iterator[str]:
    """A fresh namespace, gone when the test is."""
    with fresh_namespace(nodes.kubectl) as name:
        yield name


@contextlib.contextmanager
def fresh_namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    kubectl.run("create", "namespace", name)
    yield name
    kubectl.run("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def figures() -> Figures:
    """Told in the end."""
    return _figures


@pytest.fixture(scope="session")
def operator(nodes: Nodes) -> Iterator[Helm]:
    """The chart's, with the environment of this clone for an image."""
    if nodes.own is None:
        pytest.skip("the tiny model is in the pods of our own nodes only")
    kubectl, helm = nodes.kubectl, Helm(nodes.kubectl.kubeconfig)
    repository, _, tag = IMAGE.rpartition(":")
    values = {"image": {"repository": repository, "tag": tag}, "replicas": 1}
    helm.run("install", "moe-operator", str(CHART), "-n", SYSTEM, "--create-namespace", values=values)
    start(kubectl, "moe-operator", "moe_operator")
    yield helm
    # The image has no commands of ours, and so nothing for the hook that asks before an uninstall.
    helm.run("uninstall", "moe-operator", "-n", SYSTEM, "--no-hooks")


@pytest.fixture(scope="session")
def deployed(nodes: Nodes, figures: Figures, request: pytest.FixtureRequest) -> Iterator[Deployed]:
    """The tiny model, for all tests that leave it as they found it; in a namespace for restricted pods."""
    begun = time.monotonic()
    request.getfixturevalue("operator")
    with fresh_namespace(nodes.kubectl) as namespace:
        nodes.kubectl.run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        tiny = Deployed(nodes, namespace)
        tiny.apply()
        tiny.wait_for_a_token(begun + TOKEN_SECONDS)
        figures.add("helm install and apply, until the first token", time.monotonic() - begun, 120)
        yield tiny
        tiny.delete()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _figures.lines():
        terminalreporter.write_line(line)
    if _not_run:
        terminalreporter.write_line(f"NOT RUN: the tests on nodes: {_not_run[0]}")
