"""One active operator per scope, by a Lease.

A Lease cannot stop a former leader that was frozen from finishing what it had begun to send; it bounds it. So the
deadline is asked before each write (``Elector.check`` as the fence of a ``KubeClient``), each write carries the
resourceVersion it was decided on, and the directory refuses the placement of an older term.

Called by the operator's start-up. ``lease`` is pure; ``elector`` writes.
"""

from moe_operator.leader.elector import Elector
from moe_operator.leader.lease import LeaseSettings

__all__ = ["Elector", "LeaseSettings"]
