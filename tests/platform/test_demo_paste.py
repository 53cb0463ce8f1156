"""What a demo that stays up shows for another shell."""

import re
import shlex
import subprocess
from pathlib import Path

from moe_dev.demo_cluster import Cluster
from moe_dev.demo_paste import paste_lines
from moe_dev.kube import Kubectl

MANIFEST = Path("/Ann's clones/$1/.demo/01-tiny.yaml")
SHARD = "ray::ServeReplica:moe.default.tiny.ea09118d.experts-3:experts"


def shown() -> list[list[str]]:
    """The words of each line, as a shell splits them."""
    lines = paste_lines(["export A=b"], "default", "tiny", "http://127.0.0.1:8000/default/tiny/v1", MANIFEST)
    return [shlex.split(line) for line in lines]


def test_the_file_named_is_that_of_what_was_applied() -> None:
    assert ["kubectl", "--namespace", "default", "apply", "-f", str(MANIFEST)] in shown()


def test_kubectl_is_found_in_any_folder() -> None:
    cluster = Cluster(Kubectl(Path("/my cache/kubectl"), Path("/Ann's clone/$1.kubeconfig")), "default", own=False)
    assert [shlex.split(line) for line in cluster.shell] == [
        ["export", "KUBECONFIG=/Ann's clone/$1.kubeconfig"],
        ["export", "PATH=$PATH:/my cache"],
    ]
    script = "; ".join([*cluster.shell, 'echo "$KUBECONFIG"', 'echo "$PATH"'])
    ended = subprocess.run(["sh", "-c", script], env={"PATH": "/bin"}, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["/Ann's clone/$1.kubeconfig", "/bin:/my cache"]


def test_the_processes_of_the_shards_can_be_listed() -> None:
    (*command, pattern) = shown()[-1]
    assert command == ["pgrep", "-af"]
    assert re.search(pattern, SHARD)
    for other in (SHARD.replace("tiny", "tiny-2"), SHARD.replace(".experts-3:experts", ":attention")):
        assert not re.search(pattern, other)
