"""``python -m moe_serving`` is ``moe-serve``."""

import sys

from moe_serving.cli import main

if __name__ == "__main__":
    sys.exit(main())
