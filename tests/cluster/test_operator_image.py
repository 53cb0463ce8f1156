"""The operator's image as `make images` builds it, from a file and no registry, in a namespace for restricted pods."""

import pytest
from real_nodes import Nodes

from moe_dev import images
from moe_dev.helm import CHART, Helm

pytestmark = [pytest.mark.whole, pytest.mark.node]

NAME = "built"
READY_SECONDS = 180.0


@pytest.fixture(scope="module")
def image(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What it is called on the nodes."""
    if nodes.own is None:
        pytest.skip("an image is given to nodes of our own only")
    if why := images.unable():
        pytest.skip(why)
    file = tmp_path_factory.mktemp("image") / "operator.tar"
    name = images.archived("operator", file)
    nodes.own.load(file)
    return name


def test_it_starts_and_ends_as_the_chart_has_it(nodes: Nodes, operator: Helm, namespace: str, image: str) -> None:
    """Beside the operator of the other tests, which works all other namespaces: nothing is made in this one."""
    kubectl = nodes.kubectl
    kubectl.run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    repository, _, tag = image.rpartition(":")
    values = {
        "fullnameOverride": NAME,
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "namespaces": [namespace],
        "crds": {"enabled": False},
        "activator": {"enabled": True},
    }
    operator.run("install", NAME, str(CHART), "-n", namespace, values=values)
    try:
        for deployment in (NAME, f"{NAME}-activator"):
            where = (f"deployment/{deployment}", "-n", namespace, f"--timeout={READY_SECONDS:.0f}s")
            kubectl.run("rollout", "status", *where, timeout=READY_SECONDS + 10.0)
        # The kernels are there, for this processor and a root that cannot be written to: none is compiled.
        kubectl.run(
            "exec", "-n", namespace, f"deployment/{NAME}", "--", "python3", "-c", images.TRIALS["operator"].read_text(),
            timeout=READY_SECONDS,
        )  # fmt: skip
        operator.run("uninstall", NAME, "-n", namespace, "--wait", "--timeout=120s", timeout=130.0)
    except BaseException:
        print(kubectl.run("get", "pods", "-n", namespace, "-o", "yaml")[-6000:])
        raise
    assert kubectl.get("deployment", NAME, namespace) is None
