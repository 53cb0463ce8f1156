"""How much of everything is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Attributes:
    models: of ``models.models``.
    streams: answers under way at any time.
    migrations: of figures 1 and 2 each, for each model.
    moved: least share of all copies that each of them moves.
    migration_s: seconds that each migration of figure 2 lasts at least, and each window beside it.
    plan_seeds: of figure 3, each of 20 pairs of kinds of text and 5 of one kind.
    plans: of figure 3, accepted ones, all models together; for each model at most so many of either kind.
    refused: of figure 3, of all models together at least, carried out all the same.
    rates: of links in figure 4, Gb/s.
    rooms: of figure 4, slots for each expert: little more than the expert itself needs, or what two copies of it do.
    rounds: of figure 4, in each of which all placements are measured.
    answers: of figure 4, for each measurement.
    shifts, quiet: of figure 5, changes of the text, and intervals without one.
    deployments, operator_interval_s, operator_s: of figure 6, small ones, and of each of its parts.
    all_crashes: whether figure 7 is of all points at which a process may end.
    """

    models: tuple[str, ...] = ("tiny", "larger")
    streams: int = 8
    migrations: int = 100
    moved: float = 0.10
    migration_s: float = 3.0
    plan_seeds: int = 5
    plans: int = 100
    refused: int = 20
    rates: tuple[float, ...] = (0.005, 0.02, 0.1, 0.3, 1.0, 3.0, 10.0)
    rooms: tuple[float, ...] = (1.125, 2.0)
    rounds: int = 5
    answers: int = 16
    shifts: int = 5
    quiet: int = 100
    deployments: int = 20
    operator_interval_s: float = 30.0
    operator_s: float = 240.0
    all_crashes: bool = True


FULL = Sizes()
SHORT = Sizes(
    models=("tiny",),
    migrations=2,
    migration_s=0.5,
    plan_seeds=1,
    plans=1,
    refused=0,
    rates=(0.005,),
    rooms=(1.125,),
    rounds=1,
    answers=8,
    shifts=1,
    quiet=2,
    deployments=2,
    operator_interval_s=10.0,
    operator_s=60.0,
    all_crashes=False,
)
"""Whether everything works, in a minute; as figures they are worth nothing."""
