"""Writes what is generated from the types: the CRDs and the API reference.

``python -m moe_operator.api.generate`` in the repository root (``make crds``); with ``--check`` it only compares.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from moe_operator.api import names
from moe_operator.api.crd import expertplacement_crd, moedeployment_crd, render
from moe_operator.api.reference import reference


def generated() -> dict[str, str]:
    """Every generated file's path below the repository root, and its text."""
    crds = {
        f"{names.GROUP}_{names.PLURAL}.yaml": render(moedeployment_crd()),
        f"{names.GROUP}_{names.PLACEMENT_PLURAL}.yaml": render(expertplacement_crd()),
    }
    # Helm packs no file from outside the chart, and never upgrades what is in a chart's own folder crds/.
    folders = ("crds", "charts/moe-operator/files/crds")
    return {f"{folder}/{name}": text for folder in folders for name, text in crds.items()} | {
        "docs/api.md": reference()
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with ``--check`` return 1 if one is not what the types say."""
    parser = argparse.ArgumentParser(prog="python -m moe_operator.api.generate", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="the repository root (default: here)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    options = parser.parse_args(arguments)
    root: Path = options.root
    stale = {path: text for path, text in generated().items() if _read(root / path) != text}
    if options.check and stale:
        sys.stderr.write(f"{', '.join(stale)} differ from the types: run `make crds`\n")
        return 1
    for path, text in stale.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return 0


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
