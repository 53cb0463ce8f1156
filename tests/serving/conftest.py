"""What tests of the data plane share: one checkpoint of each kind per session, and little competition for two cores."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A random checkpoint by variant, a key of ``reference.CONFIGS``; built on first use."""
    # Imports torch and transformers: tests that need no model must not wait for them.
    from reference import build_checkpoint  # noqa: PLC0415

    built: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in built:
            built[variant] = build_checkpoint(variant, tmp_path_factory.mktemp(variant))
        return built[variant]

    return get


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The trained model of this repository."""
    return Path(__file__).parents[2] / "models" / "tiny"
