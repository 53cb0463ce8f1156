"""Makes what `make demo` and `make test` need: the virtual environment and the control plane's binaries.

Run by the Makefile with the system's Python, so standard library only. A second run finds everything there, does
nothing and downloads nothing; a second clone gets the packages and the binaries from the cache.
"""

import argparse
import signal
import sys

from moe_dev import binaries
from moe_dev.environment import make_environment
from moe_dev.uv import SetupError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m moe_dev.setup", description=__doc__)
    parser.add_argument("--kubectl-only", action="store_true", help="build no control plane: a cluster is there")
    options = parser.parse_args()
    try:
        make_environment()
        binaries.build((binaries.KUBECTL,) if options.kubectl_only else tuple(binaries.PACKAGES))
    except (SetupError, binaries.BinariesError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
