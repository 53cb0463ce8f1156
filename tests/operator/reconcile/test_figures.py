"""Which figures of the data plane are told, and when anew."""

import pytest
from epochs import epoch_figures
from moe_facts import FACTS

from moe_contract.report import DirectoryReport, EpochFigures, Progress, ShardReport, Traffic
from moe_operator.reconcile.figures import LEAST_PAIRS, measured, steadied

ENOUGH = LEAST_PAIRS * FACTS.layers * 2


def figures(epoch: int, pairs: int) -> EpochFigures:
    return epoch_figures(epoch, rows=9, pairs=pairs, node_fan_out=0.5)


@pytest.mark.parametrize(
    ("epochs", "told"),
    [
        ((), None),
        ((figures(6, ENOUGH),), None),
        ((figures(7, ENOUGH - 1),), None),
        ((figures(6, 9 * ENOUGH), figures(7, ENOUGH)), 7),
    ],
    ids=["no traffic", "of the table before", "of too little", "of the one in force"],
)
def test_figures_are_of_the_table_in_force_and_of_enough(epochs: tuple[EpochFigures, ...], told: int | None) -> None:
    report = DirectoryReport(
        term=1,
        revision=1,
        epoch=7,
        model=FACTS,
        shards=tuple(ShardReport(index=index, phase="Ready") for index in range(2)),
        progress=Progress(copied=0, total=0, settled=True),
        traffic=Traffic(epochs=epochs),
    )
    found = measured(report)
    assert (found.epoch if found else None) == told


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [(None, None, None), (None, 0.5, "0.50"), ("0.50", 0.51, "0.50"), ("0.50", 0.6, "0.60"), ("0.50", None, "0.50")]
    + [(forged, 0.5, "0.50") for forged in ("good", "nan", "inf", "")],
)
def test_a_figure_is_told_anew_when_it_has_moved(before: str | None, now: float | None, told: str | None) -> None:
    assert steadied(before, now) == told
