"""Every example is taken by a real API server under strict validation.

What they do is tested end to end: the first by the demo's test, the second on a real Ray of the tests' own.
"""

from pathlib import Path

import pytest
import yaml

from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def test_there_are_examples_numbered_in_reading_order() -> None:
    numbers = [int(path.name.split("-")[0]) for path in EXAMPLES]
    assert numbers == list(range(1, len(EXAMPLES) + 1))
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_operator_reads_it(path: Path) -> None:
    found = [document for document in yaml.safe_load_all(path.read_text()) if document["kind"] == "MoEDeployment"]
    assert found
    for document in found:
        document["metadata"] = {"namespace": "default", **document["metadata"], "uid": "u"}
        moe = MoEDeployment.parse(document)
        assert moe.model_path == "models/tiny"


@pytest.mark.e2e
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_real_api_server_takes_it(installed: Kubectl, namespace: str, path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] == "MoEDeployment":
            document["metadata"]["namespace"] = namespace
            document["metadata"]["name"] += f"-{path.name[:2]}-{document['spec']['experts']['shards']}"
            installed.apply(document)
