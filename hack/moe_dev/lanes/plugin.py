"""Gives each test its lane, by what it uses: a pytest plugin.

Nothing is listed by hand that can be seen: a test whose fixtures start a control plane or a Ray is end-to-end, a test
whose file imports torch needs torch. A test that starts such things by itself says so with a marker; one of the fast
lane that does not say so fails (`forbidden`).
"""

import functools
import signal
from collections.abc import Collection, Generator
from pathlib import Path

import pytest

from moe_dev.lanes import forbidden
from moe_dev.lanes.imports import Imports
from moe_dev.lanes.uses import Uses
from moe_dev.paths import CLONE

CHECK, ALONE, RAY, CLUSTER, WAITS, REST = "check", "alone", "ray", "cluster", "waits", "rest"
LONG = "long"
"""The marker of what `make test-long` runs, in the same lanes, and `make test` does not."""
LANES = (CHECK, ALONE, RAY, CLUSTER, WAITS, REST)
"""Each test is in one: what `make check` runs; what judges figures, and the demo, beside nothing; what runs on the Ray
that is for all; what else is on a control plane; what waits most of its time for operators, Rays and demos of its own;
and the rest of `make test`, which computes.
"""

TESTS = CLONE / "tests"
# What transformers gives without importing torch; safetensors and others import it by name.
LIGHT = frozenset({"transformers", "transformers.PreTrainedTokenizerFast"})
# Fixtures that mark the tests which use them, directly or by other fixtures.
FIXTURES = {"controlplane": ("e2e",), "ray_cluster": ("e2e", "ray"), "checkpoint_of": ("torch",)}
SHARED_RAY = "ray_cluster"
# By lane: markers in a file, and fixtures asked for there; without any of them it has nothing for the lane.
SIGNS: dict[str, tuple[Collection[str], Collection[str]]] = {
    ALONE: (["alone"], []),
    RAY: ([], [SHARED_RAY]),
    CLUSTER: (["e2e"], ["controlplane"]),
    WAITS: (["waits", "ray"], []),
    REST: (["torch", "slow", "long", "whole"], ["checkpoint_of"]),
}

ROOTS = ("placement", "contract", "serving", "operator", "hack")
HELPERS = ("tests/serving", "tests/operator", "tests/cluster", ".")

_imports = Imports([CLONE / root for root in (*ROOTS, *HELPERS)])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lane", choices=LANES, help="run one part of all tests: see moe_dev.lanes")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in `make test &` of a script. What the tests start would ignore it too, and not end when it is told to;
        # a handler, unlike an ignored signal, is not inherited.
        signal.signal(signal.SIGINT, lambda *_: None)
    if config.getoption("lane") == CHECK:
        forbidden.watch()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A lane leaves files alone that have nothing for it, and the fast one those that would import torch."""
    if TESTS not in collection_path.parents:
        return None
    return not may_need(collection_path, config.getoption("lane")) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for name in _marks(item):
            item.add_marker(name)
        if TESTS in item.path.parents and not may_need(item.path, lane_of(item)):
            raise pytest.UsageError(f"{item.nodeid} is of the lane {lane_of(item)}, which did not see it")
    lane = config.getoption("lane")
    if lane:
        config.hook.pytest_deselected(items=[item for item in items if lane_of(item) != lane])
        items[:] = [item for item in items if lane_of(item) == lane]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that went on after what is forbidden had failed has not passed."""
    forbidden.forget()
    yield
    forbidden.check()


def lane_of(item: pytest.Item) -> str:
    """The one lane that runs it."""
    marks = {mark.name for mark in item.iter_markers()}
    if "alone" in marks:
        return ALONE
    if "ray" in marks:
        return RAY if SHARED_RAY in getattr(item, "fixturenames", ()) else WAITS
    if "e2e" in marks:
        return WAITS if "waits" in marks else CLUSTER
    return REST if marks & {"torch", "slow", "long", "whole"} else CHECK


def may_need(path: Path, lane: str | None) -> bool:
    """Whether a file or folder of the tests may have some of a lane: of all lanes with None, as far as it is seen."""
    if lane == CHECK:
        python = path / "conftest.py" if path.is_dir() else path
        return not (python.suffix == ".py" and python.exists() and needs_torch(python))
    if lane not in SIGNS:
        return True
    files = path.rglob("test_*.py") if path.is_dir() else [path] if path.name.startswith("test_") else []
    return any(_may_need(file, lane) for file in files)


def _may_need(file: Path, lane: str) -> bool:
    if lane == CLUSTER and needs_torch(file):
        return False  # what needs torch and a control plane needs a Ray
    return _uses(lane).may_be_in(file) or (lane == REST and needs_torch(file))


@functools.cache
def _uses(lane: str) -> Uses:
    return Uses(TESTS, *SIGNS[lane])


@functools.cache
def needs_torch(path: Path) -> bool:
    """Whether importing a test's file, or a conftest above it, imports torch."""
    above = [folder / "conftest.py" for folder in path.parents if folder == TESTS or TESTS in folder.parents]
    return any(_is_heavy(name) for file in (path, *above) if file.exists() for name in _imports.of(file))


def _is_heavy(module: str) -> bool:
    parts = module.split(".")
    return "torch" in parts or (parts[0] == "transformers" and module not in LIGHT)


def _marks(item: pytest.Item) -> set[str]:
    fixtures = set(getattr(item, "fixturenames", ()))
    found = {mark for fixture, marks in FIXTURES.items() if fixture in fixtures for mark in marks}
    return found | ({"torch"} if needs_torch(item.path) else set())
