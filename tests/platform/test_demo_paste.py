"""What a demo that stays up shows for another shell."""

import re
import shlex
from pathlib import Path

from moe_dev.demo_paste import paste_lines

MANIFEST = Path("/clone/.demo/01-tiny.yaml")
SHARD = "ray::ServeReplica:moe.default.tiny.ea09118d.experts-3:experts"


def shown() -> list[list[str]]:
    """The words of each line, as a shell splits them."""
    lines = paste_lines(["export A=b"], "default", "tiny", "http://127.0.0.1:8000/default/tiny/v1", MANIFEST)
    return [shlex.split(line) for line in lines]


def test_the_file_named_is_that_of_what_was_applied() -> None:
    assert ["kubectl", "--namespace", "default", "apply", "-f", str(MANIFEST)] in shown()


def test_the_processes_of_the_shards_can_be_listed() -> None:
    (*command, pattern) = shown()[-1]
    assert command == ["pgrep", "-af"]
    assert re.search(pattern, SHARD)
    for other in (SHARD.replace("tiny", "tiny-2"), SHARD.replace(".experts-3:experts", ":attention")):
        assert not re.search(pattern, other)
