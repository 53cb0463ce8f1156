"""Manual pages as plain text: the part of roff that manual pages use.

A full formatter (man, groff) is not installed on every machine and breaks lines by terminal width;
the model needs running text. Caller: corpus.py.
"""

import re

_NAMED_CHARACTERS = {
    "aq": "'",
    "bu": "*",
    "co": "©",
    "cq": "’",
    "dq": '"',
    "em": "—",
    "en": "–",
    "ga": "`",
    "ha": "^",
    "lq": "“",
    "oq": "‘",
    "rs": "\\",
    "rq": "”",
    "ti": "~",
    "Fc": "»",
    "Fo": "«",
}
# Macros whose arguments are text; B, I and R combinations only change the font.
_TEXT_MACROS = {"B", "I", "R", "BR", "RB", "BI", "IB", "IR", "RI", "SM", "SB", "MR"}
_JOINING_MACROS = {"BR", "RB", "BI", "IB", "IR", "RI"}
_PARAGRAPH_MACROS = {"PP", "P", "LP", "sp", "IP", "TP", "HP", "RS"}
_HEADING_MACROS = {"SH", "SS"}
_UNSUPPORTED = {"Dd", "so", "TS", "de"}
# The same few sentences on every page.
_SKIPPED_SECTIONS = {"COPYRIGHT", "COLOPHON", "ÜBERSETZUNG", "TRADUCTION"}

_NAMED = re.compile(r"\\\((..)|\\\[([^\]]*)\]")
_FONT = re.compile(r"\\f(?:\(..|\[[^\]]*\]|.)|\\s[-+]?\d|\\m\[[^\]]*\]|\\\*\(..|\\[|^/,&:%cdu]|\\[hvw]'[^']*'")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')


def plain_text(source: str) -> str:
    """The running text of a manual page written with the man macros; empty for other macro sets and aliases."""
    lines: list[str] = []
    skipping = False
    for line in source.splitlines():
        macro, rest = _macro(line)
        if macro in _UNSUPPORTED:
            return ""
        if macro == "SH":
            skipping = " ".join(_arguments(rest)).upper() in _SKIPPED_SECTIONS
        if not skipping:
            lines.extend(_expand_macro(macro, rest) if macro is not None else [_unescape(rest).rstrip("\\ ")])
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _macro(line: str) -> tuple[str | None, str]:
    """(macro name, its arguments) of a control line, (None, text) of a text line, both without the comment."""
    text = line.partition('\\"')[0]
    if not text.startswith((".", "'")):
        return None, text
    name, _, rest = text[1:].strip().partition(" ")
    return name, rest


def _expand_macro(macro: str, rest: str) -> list[str]:
    if macro in _PARAGRAPH_MACROS:
        words = _arguments(rest) if macro == "IP" else []
        return ["", *(words[:1] if words and words[0] else [])]
    if macro in _HEADING_MACROS:
        return ["", " ".join(_arguments(rest)), ""]
    if macro in _TEXT_MACROS:
        separator = "" if macro in _JOINING_MACROS else " "
        return [separator.join(_arguments(rest)).rstrip("\\ ")]
    return []


def _arguments(rest: str) -> list[str]:
    found = _ARGUMENT.finditer(rest)
    return [_unescape(m.group(2) if m.group(1) is None else m.group(1).replace('""', '"')) for m in found]


def _unescape(text: str) -> str:
    text = _FONT.sub("", text)
    text = _NAMED.sub(lambda m: _NAMED_CHARACTERS.get(m.group(1) or m.group(2), ""), text)
    for escape, character in (("\\-", "-"), ("\\e", "\\"), ("\\ ", " "), ("\\~", " "), ("\\'", "'"), ("\\`", "`")):
        text = text.replace(escape, character)
    return text
