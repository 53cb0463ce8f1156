"""A release: what may be one, what its chart says, and a workflow that pins what it runs and names what there is."""

import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from moe_dev import images, release
from moe_dev.binaries import kubernetes_version
from moe_dev.debian import ImageError
from moe_dev.helm import CHART, Helm
from moe_dev.paths import CLONE

WORKFLOWS = sorted((CLONE / ".github" / "workflows").glob("*.yml"))
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]


def jobs(workflow: Path) -> list[dict[str, Any]]:
    read = yaml.safe_load(workflow.read_text())
    # YAML takes the bare word `on` for true.
    assert {"name", True, "permissions", "jobs"} <= set(read)
    assert read["permissions"] != "write-all"
    return list(read["jobs"].values())


def test_there_is_a_workflow_for_the_tags_of_releases() -> None:
    assert [path.name for path in WORKFLOWS] == ["release.yml"]
    (pattern,) = yaml.safe_load(WORKFLOWS[0].read_text())[True]["push"]["tags"]
    assert re.fullmatch(pattern.replace(".", r"\."), f"v{VERSION}")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_digest_and_commands_take_nothing_from_expressions(workflow: Path) -> None:
    """What an expression stands for would be part of the shell's text."""
    for job in jobs(workflow):
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
            assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_targets_and_their_variables_exist(workflow: Path) -> None:
    makefile = (CLONE / "Makefile").read_text()
    commands = [step["run"] for job in jobs(workflow) for step in job["steps"] if "run" in step]
    found = re.findall(r"\bmake (\S+) (.*)", "\n".join(commands))
    assert [target for target, _ in found] == ["release"]
    for target, rest in found:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        variables = re.findall(r"\b([A-Z]+)=", rest)
        assert variables == ["REGISTRY", "TAG"]
        assert all(f"$({each})" in makefile for each in variables)


@pytest.mark.parametrize("tag", ["v9.9.9", VERSION, "latest", ""])
def test_a_tag_of_another_version_is_refused(tag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["registry.example.org/team", tag]) == 1
    assert f"the tag is {tag}, but pyproject.toml has {VERSION}" in capsys.readouterr().err


def test_images_and_chart_are_pushed_under_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[str] = []
    monkeypatch.setattr(images, "publish", lambda name, reference: pushed.append(f"{name} {reference}"))
    monkeypatch.setattr(release, "push_chart", lambda *chart: pushed.append(" ".join(chart)))
    assert release.main(["registry.example.org/team", f"v{VERSION}"]) == 0
    assert pushed == [
        f"operator registry.example.org/team/moe-operator:{VERSION}",
        f"serving registry.example.org/team/moe-serving:{VERSION}",
        f"registry.example.org/team {VERSION}",
    ]


def test_an_image_that_fails_ends_a_release(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "publish", Mock(side_effect=ImageError("larger than 250 MB")))
    monkeypatch.setattr(release, "push_chart", Mock(side_effect=AssertionError("pushed")))
    assert release.main(["registry.example.org/team", f"v{VERSION}"]) == 1
    assert "larger than 250 MB" in capsys.readouterr().err
    assert release.main([]) == 2


def test_the_chart_of_a_release_names_its_image(tmp_path: Path) -> None:
    chart = release.with_registry("registry.example.org/team", tmp_path)
    rendered = Helm().run("template", "moe-operator", str(chart), f"--kube-version={kubernetes_version()}")
    found = re.findall(r"image: \"(.*)\"", rendered)
    assert set(found) == {f"registry.example.org/team/moe-operator:{VERSION}"}
