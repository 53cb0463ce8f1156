"""Documents name what there is: tests that show a claim, and headings that links lead to."""

import re
from pathlib import Path

import pytest

from moe_dev.paths import CLONE

DOCUMENTS = sorted([CLONE / "README.md", *(CLONE / "docs").glob("*.md")])
SECURITY = CLONE / "docs" / "security.md"
TEST = re.compile(r"`(test_\w+)`")


@pytest.fixture(scope="module")
def tests() -> set[str]:
    """Names of all tests that there are."""
    texts = (path.read_text() for path in (CLONE / "tests").rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_documents_name_exist(document: Path, tests: set[str]) -> None:
    named = set(TEST.findall(document.read_text()))
    assert named <= tests, f"{document.name} names tests that do not exist: {sorted(named - tests)}"


def test_every_claim_about_security_names_a_test_that_shows_it() -> None:
    rows = [line for line in SECURITY.read_text().splitlines() if line.startswith("|") and not line.startswith("|---")]
    claims = [row for row in rows if not row.rstrip(" |").endswith("Shown by")]
    assert len(claims) > 30
    assert [row for row in claims if not TEST.search(row.rstrip(" |").rpartition("|")[2])] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def anchors(document: Path) -> set[str]:
    """Of all headings, as a forge makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
