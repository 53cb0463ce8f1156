"""The lines that a demo which stays up shows for another shell, ready to paste from any folder. Pure."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def paste_lines(shell: Sequence[str], namespace: str, name: str, url: str, manifest: Path) -> list[str]:
    """For kubectl (after the lines of `shell`), curl, Python's openai and the processes of the shards.

    `manifest`: the file of what was applied. `url`: base of the OpenAI API.
    """
    kubectl = f"kubectl --namespace {namespace}"
    chat = {"model": name, "stream": True, "messages": [{"role": "user", "content": "What is a pipe?"}]}
    completion = f'model="{name}", prompt="The ", max_tokens=32, temperature=0'
    client = f'import openai; c = openai.OpenAI(base_url="{url}", api_key="none")'
    return [
        *shell,
        f"{kubectl} get moe {name} -o yaml",
        f"{kubectl} apply -f {shlex.quote(str(manifest))}",
        f"{kubectl} scale moe {name} --replicas=2 && {kubectl} get moe {name} --watch",
        f"curl -N {url}/chat/completions -H 'Content-Type: application/json' -d '{json.dumps(chat)}'",
        f"{shlex.quote(sys.executable)} -c '{client}; print(c.completions.create({completion}).choices[0].text)'",
        # Scaling and losses make new ones: the numbers shown with the placement are of that moment.
        f"pgrep -af 'ray::ServeReplica:moe[.]{namespace}[.]{name}[.].*experts'",
    ]
