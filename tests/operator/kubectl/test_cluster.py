"""What kubectl says when it fails, and kubectls that do not behave: scripts here, the real one is in e2e."""

import sys
from pathlib import Path

import pytest

from moe_operator.kubectl import cluster as module
from moe_operator.kubectl.cluster import Cluster, failure
from moe_operator.kubectl.exits import (
    ChangedError,
    NotThereError,
    PluginError,
    RefusedError,
    RightError,
    TakenError,
    UnreachableError,
)

MAY_NOT = (
    'Error from server (Forbidden): expertplacements.moe-operator.io "tiny-r2" is forbidden: User "jane" cannot {verb} '
    'resource "{resource}" in API group "moe-operator.io" in the namespace "team"'
)
# As kubectl 1.37 writes it.
WORDS: list[tuple[str, type[PluginError], str]] = [
    (MAY_NOT.format(verb="patch", resource="expertplacements"), RightError, "role moe-operator-approve is missing"),
    (MAY_NOT.format(verb="create", resource="expertplacements"), RightError, "role moe-operator-edit is missing"),
    (MAY_NOT.format(verb="list", resource="moedeployments"), RightError, "role moe-operator-view is missing"),
    (
        'Error from server (NotFound): moedeployments.moe-operator.io "tiny" not found',
        NotThereError,
        '"tiny" not found',
    ),
    ('error: the server doesn\'t have a resource type "moedeployments"', NotThereError, "install its Custom"),
    (
        'error: no matches for kind "ExpertPlacement" in version "moe-operator.io/v1alpha1"',
        NotThereError,
        "install its",
    ),
    ('Error from server (Forbidden): a policy says: no matches for kind "X"', RightError, "a policy says"),
    ("Error from server: etcdserver: request timed out", UnreachableError, "etcdserver"),
    ('Error from server (AlreadyExists): expertplacements "tiny-r2" already exists', TakenError, "already exists"),
    ('Error from server (Conflict): Operation cannot be fulfilled on "tiny-r2"', ChangedError, "cannot be fulfilled"),
    (
        'The ExpertPlacement "tiny-r2" is invalid: spec.decision: Forbidden: no',
        RefusedError,
        "spec.decision: Forbidden",
    ),
    (
        "The connection to the server 127.0.0.1:1 was refused - did you specify the right host?",
        UnreachableError,
        "refused",
    ),
    ("Unable to connect to the server: dial tcp: lookup x: no such host", UnreachableError, "no such host"),
    ("error: You must be logged in to the server (Unauthorized)", RightError, "does not let you in"),
    ('error: context "prod" does not exist', PluginError, 'context "prod" does not exist'),
    (
        "E1128 10:00:00 1 memcache.go:265] noise\nThe connection to the server x was refused",
        UnreachableError,
        "refused",
    ),
    ("", PluginError, "said nothing"),
    ("\x1b[2Jcleared\nin two lines", PluginError, r"\\x1b\[2Jcleared in two lines"),
]


@pytest.mark.parametrize(("said", "kind", "words"), WORDS)
def test_words_of_kubectl(said: str, kind: type[PluginError], words: str) -> None:
    error = failure(said)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error


def test_the_cure_of_a_missing_role_can_be_pasted() -> None:
    said = str(failure(MAY_NOT.format(verb="patch", resource="expertplacements")))
    grant = "kubectl create rolebinding moe-operator-approve --clusterrole=moe-operator-approve --user=jane -n team"
    assert said.endswith(grant)
    assert "jane may not patch expertplacements.moe-operator.io in namespace team" in said
    account = MAY_NOT.replace("jane", "system:serviceaccount:team:bot").format(verb="get", resource="moedeployments")
    assert "--serviceaccount=team:bot" in str(failure(account))
    everywhere = MAY_NOT.format(verb="get", resource="moedeployments").removesuffix(' in the namespace "team"')
    assert "in all namespaces" in str(failure(everywhere))
    hostile = MAY_NOT.replace("jane", "$(reboot)").format(verb="get", resource="moedeployments")
    assert "'--user=$(reboot)'" in str(failure(hostile))


def test_a_refusal_of_another_form_is_told_as_it_is() -> None:
    said = "Error from server (Forbidden): admission webhook says no"
    assert str(failure(said)) == "admission webhook says no"


def kubectl(path: Path, code: str) -> Cluster:
    """A cluster whose kubectl is a script."""
    program = path / "kubectl"
    program.write_text(f"#!{sys.executable} -S\nimport sys, time\n{code}\n")
    program.chmod(0o755)
    return Cluster(("--namespace=team",), str(program))


def test_what_kubectl_is_asked(tmp_path: Path) -> None:
    cluster = kubectl(tmp_path, "import json; print(json.dumps({'asked': sys.argv[1:], 'given': sys.stdin.read()}))")
    created = cluster.create({"kind": "X"})
    asked = created["asked"]
    assert created["given"] == '{"kind": "X"}'
    assert asked[:3] == ["create", "--namespace=team", "--request-timeout=20s"]


@pytest.mark.parametrize("answer", ["print('[]')", "print('nothing')", "print('[' * 100000)", ""])
def test_an_answer_that_is_no_object(tmp_path: Path, answer: str) -> None:
    with pytest.raises(PluginError, match="the answer is no object"):
        kubectl(tmp_path, answer).create({})


def test_an_answer_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(PluginError, match="larger than"):
        kubectl(tmp_path, "while True: print('x' * 1000)").create({})


def test_a_kubectl_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALL_SECONDS", 0.2)
    with pytest.raises(UnreachableError, match="did not end"):
        kubectl(tmp_path, "time.sleep(600)").create({})


def test_a_kubectl_that_reads_nothing_of_what_it_is_given(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no thanks"):
        kubectl(tmp_path, "sys.exit('error: no thanks')").create({"long": "x" * (1 << 20)})


def test_there_is_no_kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PluginError, match="no kubectl in"):
        Cluster().get("moedeployments", "tiny")
