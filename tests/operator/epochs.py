"""What a directory counted by routing table, for tests."""

from moe_contract.report import EpochFigures


def epoch_figures(
    epoch: int,
    *,
    revision: int = 1,
    rows: int = 9000,
    pairs: int | None = None,
    fan_out: float = 1.5,
    node_fan_out: float = 0.0,
    balance: float = 0.9,
) -> EpochFigures:
    """``pairs``: two of each row unless given."""
    return EpochFigures(
        term=1, revision=revision, epoch=epoch, rows=rows, pairs=2 * rows if pairs is None else pairs, failovers=0,
        fan_out=fan_out, node_fan_out=node_fan_out, shard_balance=balance, node_balance=1.0,
    )  # fmt: skip
