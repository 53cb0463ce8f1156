"""`make lock`: pins every dependency with hashes and without addresses, after a change of pyproject.toml."""

from moe_dev.environment import LOCK
from moe_dev.paths import CLONE
from moe_dev.progress import say
from moe_dev.uv import uv

OPERATOR_LOCK = CLONE / "requirements-operator.lock"


def main() -> None:
    """Write requirements.lock and, from the same versions, what the operator alone needs."""
    options = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-index-url", "--no-header"]
    compile_ = ["pip", "compile", "--quiet", *options, str(CLONE / "pyproject.toml")]
    uv(*compile_, "--all-extras", "--output-file", str(LOCK))
    uv(*compile_, "--extra", "operator", "--constraints", str(LOCK), "--output-file", str(OPERATOR_LOCK))
    say(f"wrote {LOCK.name} and {OPERATOR_LOCK.name}")


if __name__ == "__main__":
    main()
