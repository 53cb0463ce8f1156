"""Kubeconfigs of API servers that are no cluster."""

import json
from pathlib import Path
from typing import Any


def kubeconfig(path: Path, server: str, user: dict[str, Any] | None = None) -> Path:
    """Written to ``path``; ``user``: how it is authenticated, by a token unless given."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"} if user is None else user}],
    }
    path.write_text(json.dumps(config))
    return path
