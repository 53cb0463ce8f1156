"""The generated files are what the types say, and the check of CI finds it when they are not."""

from pathlib import Path

import pytest

from moe_operator.api.generate import generated, main

ROOT = Path(__file__).parents[3]


def test_the_files_in_the_repository_are_current() -> None:
    assert main(["--root", str(ROOT), "--check"]) == 0, "run `make crds`"


def test_check_names_what_differs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path)]) == 0
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == set(generated())
    changed = tmp_path / "docs/api.md"
    changed.write_text("edited by hand\n")
    assert main(["--root", str(tmp_path), "--check"]) == 1
    said = capsys.readouterr().err
    assert "docs/api.md" in said
    assert "crds/" not in said
    assert changed.read_text() == "edited by hand\n"
