"""``python -m moe_operator``."""

import sys

from moe_operator.cli import main

sys.exit(main())
