"""The text the model learns: files of this machine, one domain per kind of text, some files held out.

Boundary: reads files, returns text; no tokens, no torch. Callers: tokenizer.py, dataset.py, card.py.
"""

import gzip
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.errors import CorpusError
from training.roff import plain_text

MAN_ROOT = Path("/usr/share/man")
INCLUDE_ROOT = Path("/usr/include")
# Sections 1 and 3 of the English pages hold whatever a machine has installed (cloud tools, Perl, Tcl);
# the rest is much the same everywhere.
ENGLISH_SECTIONS = ("man2", "man4", "man5", "man7", "man8")
# The headers of libc6-dev and linux-libc-dev; other packages' headers differ from machine to machine.
HEADER_FOLDERS = (".", "arpa", "asm-generic", "linux", "net", "netinet", "rpc", "scsi", "sound", "video")
# Tables and test data teach nothing but themselves.
SKIPPED_STDLIB = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}

MIN_FILE_CHARACTERS = 300
MAX_FILE_CHARACTERS = 12_000  # of a file: many beginnings teach more names than a few files to their end
HELD_OUT_ONE_IN = 20


@dataclass(frozen=True, slots=True)
class Domain:
    """A kind of text; `package` is the Debian package that holds it."""

    name: str
    source: str
    licence: str
    package: str


@dataclass(frozen=True, slots=True)
class Document:
    """One file's text; `name` is its path below the domain's root, the same on every machine."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Split:
    """A domain's documents; no file is in both halves, and no text is twice in the corpus."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


MAN_LICENCE = "per page: GPL-2.0/3.0-or-later, BSD, MIT, Linux-man-pages-copyleft"
DOMAINS = (
    Domain("python", "the standard library's sources (no tests, no tables)", "PSF-2.0", "python3"),
    Domain(
        "c",
        "headers of libc6-dev and linux-libc-dev in /usr/include",
        "LGPL-2.1-or-later; GPL-2.0 WITH Linux-syscall-note",
        "libc6-dev",
    ),
    Domain("english", "manual pages of sections 2, 4, 5, 7 and 8", MAN_LICENCE, "manpages manpages-dev"),
    Domain("german", "manual pages in German", MAN_LICENCE, "manpages-de"),
    Domain("french", "manual pages in French", MAN_LICENCE, "manpages-fr"),
)


def read_corpus(characters_per_domain: int) -> dict[str, Split]:
    """Every domain's documents, at most `characters_per_domain` of training text each.

    Raises CorpusError naming the Debian package to install where a domain has less than half of that.
    """
    seen: set[str] = set()
    corpus = {}
    for domain in DOMAINS:
        documents = _without_duplicates(_documents(domain.name), seen)
        corpus[domain.name] = split_by_file(domain.name, documents, characters_per_domain)
        found = sum(len(document.text) for document in corpus[domain.name].train)
        if found < characters_per_domain // 2:
            raise CorpusError(
                f"domain {domain.name}: {found} characters of {domain.source} on this machine, "
                f"at least {characters_per_domain // 2} needed: apt-get install {domain.package} "
                "(container images often drop manual pages: see path-exclude in /etc/dpkg/dpkg.cfg.d)"
            )
    return corpus


def split_by_file(domain: str, documents: list[Document], characters: int) -> Split:
    """Training documents up to `characters` and held-out ones up to a tenth of that, chosen by the hash of the name.

    The hash decides, not the listing: a file keeps its side on every machine, whatever else is installed.
    """
    ordered = sorted(documents, key=lambda document: _name_hash(domain, document))
    held_out = [d for d in ordered if _name_hash(domain, d) % HELD_OUT_ONE_IN == 0]
    train = [d for d in ordered if _name_hash(domain, d) % HELD_OUT_ONE_IN != 0]
    return Split(_take(train, characters), _take(held_out, characters // 10))


def corpus_digest(corpus: dict[str, Split]) -> str:
    """SHA-256 over every domain, file name and text: two machines with the same digest train the same model."""
    digest = hashlib.sha256()
    for domain, split in corpus.items():
        for part in (split.train, split.held_out):
            for document in part:
                digest.update(f"{domain}\0{document.name}\0{document.text}\0".encode())
    return digest.hexdigest()


def without_licence_header(text: str) -> str:
    """C source without the leading comments that state its licence: every file has the same ones."""
    while match := re.match(r"\s*(/\*.*?\*/|//[^\n]*\n)", text, re.DOTALL):
        if not re.search(r"copyright|licen[cs]e|SPDX", match.group(1), re.IGNORECASE):
            break
        text = text[match.end() :]
    return text.lstrip()


def _documents(domain: str) -> Iterator[Document]:
    match domain:
        case "python":
            yield from _python_sources(Path(sysconfig.get_path("stdlib")))
        case "c":
            yield from _headers(INCLUDE_ROOT)
        case "english":
            yield from _manual_pages(MAN_ROOT, ENGLISH_SECTIONS)
        case "german":
            yield from _manual_pages(MAN_ROOT / "de", ("man*",))
        case "french":
            yield from _manual_pages(MAN_ROOT / "fr", ("man*",))


def _python_sources(root: Path) -> Iterator[Document]:
    for path in root.rglob("*.py"):
        if not SKIPPED_STDLIB.intersection(path.relative_to(root).parts):
            yield Document(str(path.relative_to(root)), path.read_text(encoding="utf-8", errors="replace"))


def _headers(root: Path) -> Iterator[Document]:
    # Debian keeps some of glibc's headers below the machine's triplet.
    triplet = [folder for name in ("sys", "bits") for folder in root.glob(f"*-linux-gnu/{name}")]
    for folder in [*(root / name for name in HEADER_FOLDERS), *triplet]:
        for path in folder.glob("*.h") if folder == root or folder in triplet else folder.rglob("*.h"):
            text = path.read_text(encoding="utf-8", errors="replace")
            yield Document(f"{path.parent.name}/{path.name}", without_licence_header(text))


def _manual_pages(root: Path, sections: tuple[str, ...]) -> Iterator[Document]:
    for section in sections:
        for path in root.glob(f"{section}/*.gz"):
            source = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
            yield Document(f"{path.parent.name}/{path.name}", plain_text(source))


def _without_duplicates(documents: Iterator[Document], seen: set[str]) -> list[Document]:
    """Documents whose text is new, long enough and cut to length; `seen` holds the texts' digests across domains."""
    kept = []
    for document in sorted(documents, key=lambda d: (d.name, d.text)):
        text = document.text[:MAX_FILE_CHARACTERS]
        digest = hashlib.sha256(text.encode()).hexdigest()
        if len(text) >= MIN_FILE_CHARACTERS and digest not in seen:
            seen.add(digest)
            kept.append(Document(document.name, text))
    return kept


def _take(documents: list[Document], characters: int) -> tuple[Document, ...]:
    taken, total = [], 0
    for document in documents:
        if total >= characters:
            break
        taken.append(document)
        total += len(document.text)
    return tuple(taken)


def _name_hash(domain: str, document: Document) -> int:
    return int.from_bytes(hashlib.sha256(f"{domain}/{document.name}".encode()).digest()[:8], "big")
