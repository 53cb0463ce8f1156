"""The operator's own errors; each message names what was wrong, where, and the cure.

OperatorError
├── InvalidObjectError      a stored object that these types cannot read
├── IllegalTransitionError  api/phase.py
├── InvalidContentError     placements/errors.py
├── NotExpressibleError     placements/errors.py
├── HistoryLostError        reconcile/controller.py
├── LeadershipLostError     a write was about to happen without a valid Lease
├── KubeError …             kube/errors.py
├── NameConflictError       kube/errors.py
├── SecretError …           kube/errors.py
├── RayError …              runtimes/errors.py
├── StrayCancellationError  tasks.py
├── StuckError              process/supervisor.py
├── NoAccessError           process/supervisor.py
└── StaleBasisError         what was decided from is no longer so
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of everything this package raises."""


class InvalidObjectError(OperatorError, ValueError):
    """An object in the cluster does not fit these types, as when the installed CRD is newer than the operator."""


class LeadershipLostError(OperatorError):
    """This process may not write (any more): its Lease has run out or was taken."""


class StaleBasisError(OperatorError):
    """What runs, or may be sent, is not what was decided from: look and decide anew. Nothing was written."""
