"""``python -m moe_placement``."""

import sys

from moe_placement.cli import main

if __name__ == "__main__":
    sys.exit(main())
