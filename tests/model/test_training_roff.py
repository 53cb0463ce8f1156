"""Manual pages as plain text."""

import pytest
from training.roff import plain_text

PAGE = r""".\" a comment
.TH LS 1 "September 2022" "GNU coreutils 9.1"
.SH NAME
ls \- list directory contents
.SH SYNOPSIS
.B ls
[\fI\,OPTION\/\fR]... [\fIFILE\fR]...
.SH DESCRIPTION
.PP
List information about the FILEs \(bu see
.BR open (2)
and \[lq]files\[rq].
.TP
\fB\-a\fR, \fB\-\-all\fR \" not shown
do not ignore entries starting with .
.BI "int open(const char *" pathname ", int " flags );
.SH COPYRIGHT
Copyright \(co 2022.
.SH "SEE ALSO"
.BR dir (1)
"""


def test_a_page_becomes_running_text() -> None:
    assert plain_text(PAGE) == (
        "NAME\n\nls - list directory contents\n\nSYNOPSIS\n\nls\n[OPTION]... [FILE]...\n\nDESCRIPTION\n\n"
        "List information about the FILEs * see\nopen(2)\nand “files”.\n\n"
        "-a, --all\ndo not ignore entries starting with .\n"
        "int open(const char *pathname, int flags);\n\nSEE ALSO\n\ndir(1)\n"
    )


@pytest.mark.parametrize("source", [".so man2/open.2\n", ".Dd January 1\n.Sh NAME\n.Nm ls\n"])
def test_aliases_and_other_macro_sets_are_left_out(source: str) -> None:
    assert plain_text(source).strip() == ""
