"""The options of ``moe-operator run``."""

import argparse

import pytest

from moe_operator.process.options import Options, add_run_options, read_run_options
from moe_operator.runtimes.kube_ray.manifests.network import Whereabouts


def options(*arguments: str) -> Options:
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    return read_run_options(parser.parse_args(arguments))


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert options().bind == ("127.0.0.1", 8080)
    assert options("--bind", "[::1]:9").bind == ("::1", 9)
    assert options("--namespace", "a", "--namespace", "b", "--namespace", "a").namespaces == ("a", "b")
    assert options("--allowed-ray-address", "10.0.0.0/8").addresses.patterns[0].text == "10.0.0.0/8"
    assert options().lease_namespace == "moe-system"
    assert options().lease_name == "moe-operator"
    assert options("--lease-name", "team-a.operator").lease_name == "team-a.operator"
    assert not options().addresses.refuse_local
    assert options().whereabouts == Whereabouts()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert options().addresses.refuse_local
    found = options("--kuberay-namespace", "ray-system", "--kuberay-namespace", "default").whereabouts
    assert found == Whereabouts(("ray-system", "default"), ("moe-system",))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "0"],
        ["--workers", "many"],
        ["--resync", "-1"],
        ["--resync", "nan"],
        ["--cleanup-deadline", "inf"],
        ["--bind", "8080"],
        ["--bind", "host:99999"],
        ["--allowed-ray-address", "http://ray"],
        ["--kuberay-namespace", "a.b"],
        ["--log-format", "xml"],
        ["--lease-name", ""],
        ["--lease-name", "Team"],
        ["--lease-name", "a..b"],
        ["--lease-name", "-a"],
        ["--lease-name", "a" * 254],
        ["--lease-namespace", "a.b"],
        ["--namespace", "team/tiny"],
        ["--namespace", "a" * 64],
    ],
)
def test_options_that_mean_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options(*arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err
