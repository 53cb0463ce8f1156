"""Makes what the other targets need: the virtual environment and, beside that, the control plane's binaries.

Run by the Makefile with the system's Python, so standard library only. A second run finds everything there, does
nothing and downloads nothing; a second clone gets the packages and the binaries from the cache.
"""

import argparse
import functools
import signal
import sys

from moe_dev import binaries
from moe_dev.commands import SetupError, together
from moe_dev.environment import make_environment


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m moe_dev.setup", description=__doc__)
    parser.add_argument("--binaries", nargs="*", default=(), metavar="NAME", help=f"of {', '.join(binaries.ALL)}")
    options = parser.parse_args()
    build = [functools.partial(binaries.build, options.binaries)] if options.binaries else []
    try:
        together(make_environment, *build)
    except (SetupError, binaries.BinariesError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
