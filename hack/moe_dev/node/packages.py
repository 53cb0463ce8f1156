"""Debian's packages that nodes need, on a machine that may lack some."""

import shutil

from moe_dev import binaries, debian
from moe_dev.modules import RUNC
from moe_dev.node import images

TOOLS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "unshare": "util-linux", "mount": "mount"}
# What links a program with a C library, as runc is.
COMPILERS = {"gcc": "gcc", "pkg-config": "pkg-config"}


def lacking() -> list[str]:
    """Those to install; what is built already needs no tool to build it."""
    wanted = dict(TOOLS)
    if not images.base_is_made():
        wanted[debian.TOOL] = debian.TOOL
    found = set()
    if RUNC.library and binaries.missing(RUNC.programs):
        library, headers = RUNC.library
        wanted |= COMPILERS
        if not binaries.has_library(library):
            found.add(headers)
    return sorted(found | {package for tool, package in wanted.items() if shutil.which(tool) is None})
