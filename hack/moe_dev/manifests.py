"""Writes operator/manifests from the chart, for those who install without Helm and for what runs the operator here.

`python -m moe_dev.manifests` (`make manifests`); with `--check` it only compares.
"""

import argparse
import re
import sys

from moe_dev.helm import Helm
from moe_dev.paths import CLONE

MANIFESTS = CLONE / "operator" / "manifests"
# By file: the chart's templates, whose objects are a release "moe-operator" in the namespace of 00-namespace.yaml.
SOURCES = {
    "10-service-account.yaml": ("operator/serviceaccount.yaml",),
    "20-operator-rights.yaml": ("operator/rights.yaml", "operator/leader.yaml"),
    "30-user-rights.yaml": ("people/roles.yaml",),
}
HEADER = "# Generated from charts/moe-operator by `make manifests`; edit the chart, not this file.\n"
# What only a release of Helm has.
_OF_HELM = re.compile(
    r"^(# Source: .*| *helm\.sh/chart: .*| *app\.kubernetes\.io/(managed-by|instance|version): .*)\n", re.MULTILINE
)


def rendered() -> dict[str, str]:
    """Every generated file's name and text."""
    return {name: HEADER + "---\n".join(map(_template, templates)) for name, templates in SOURCES.items()}


def _template(template: str) -> str:
    text = Helm().rendered(f"--show-only=templates/{template}", name="moe-operator", namespace="moe-system")
    return _OF_HELM.sub("", text).removeprefix("---\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m moe_dev.manifests", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    options = parser.parse_args()
    stale = {name: text for name, text in rendered().items() if (MANIFESTS / name).read_text() != text}
    if options.check and stale:
        print(f"{', '.join(stale)} of operator/manifests differ from the chart: run `make manifests`", file=sys.stderr)
        return 1
    for name, text in stale.items():
        (MANIFESTS / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
