"""`make lock`: pins every dependency with hashes and without addresses, after a change of pyproject.toml."""

from moe_dev.environment import LOCK
from moe_dev.paths import CLONE
from moe_dev.progress import say
from moe_dev.uv import uv

# What each image needs, by the extra of pyproject.toml.
OF_IMAGES = {extra: CLONE / f"requirements-{extra}.lock" for extra in ("operator", "serving")}


def main() -> None:
    """Write requirements.lock and, from the same versions, what each image needs."""
    options = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-index-url", "--no-header"]
    compile_ = ["pip", "compile", "--quiet", *options, str(CLONE / "pyproject.toml")]
    uv(*compile_, "--all-extras", "--output-file", str(LOCK))
    for extra, path in OF_IMAGES.items():
        uv(*compile_, "--extra", extra, "--constraints", str(LOCK), "--output-file", str(path))
    say(f"wrote {', '.join(path.name for path in (LOCK, *OF_IMAGES.values()))}")


if __name__ == "__main__":
    main()
