"""The package's own errors. Every message names what was wrong, where, and the cure."""


class PlacementError(Exception):
    """Base of everything this package raises on bad input."""


class InvalidPlacementError(PlacementError, ValueError):
    """A placement that contradicts itself: wrong shape, unknown expert, an expert nobody holds."""


class InfeasiblePlacementError(PlacementError, ValueError):
    """No placement can satisfy the limits; the message names the limit and by how much it is missed."""


class InvalidStatisticsError(PlacementError, ValueError):
    """Routing statistics, or a batch meant for them, that cannot be: ids out of range, negative or NaN counts."""


class InvalidTopologyError(PlacementError, ValueError):
    """A topology that contradicts itself or has no capacity."""


class InvalidTraceError(PlacementError, ValueError):
    """A trace file that is damaged, of another version or shape than it says; ids or parameters that make no trace."""


class MismatchError(PlacementError, ValueError):
    """Two things that are not of the same model or cluster: statistics, placement, topology."""


class InvalidPolicyError(PlacementError, ValueError):
    """Settings to decide, detect or predict by that cannot be: negative, NaN, infinite or unknown."""
