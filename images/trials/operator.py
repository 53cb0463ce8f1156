"""What the operator's image must be able to do without writing anywhere but to /tmp: plan, with kernels that it has."""

import moe_operator.process.run  # noqa: F401 - all of the operator is imported
from moe_placement import dispatch
from moe_placement.kernel_cache import kernel_directory
from moe_placement.solver.solver import compile_kernels

before = sorted(kernel_directory().iterdir())
compile_kernels()
dispatch.prepare()
if not before or before != sorted(kernel_directory().iterdir()):
    raise SystemExit("kernels were compiled anew")
