"""Figures of a placement against the plain way to compute them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_contract.report import Traffic
from moe_operator.reconcile.figures import balance, steadied
from moe_placement import Placement, balanced_placement
from moe_placement.encoding import encode_counts


def plain_balance(placement: Placement, load: np.ndarray) -> float | None:
    used = placement.held[:, :, np.asarray(placement.shard_slots) > 0]
    by_shard = np.einsum("le,les->ls", load / used.sum(axis=2), used)
    busy = by_shard.max(axis=1) > 0
    return float((by_shard.mean(axis=1)[busy] / by_shard.max(axis=1)[busy]).mean()) if busy.any() else None


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2), st.integers(0, 2**32))
def test_balance(layers: int, experts: int, shards: int, empty: int, seed: int) -> None:
    placement = balanced_placement(layers, experts, [experts] * shards + [0] * empty, min(2, shards))
    load = np.random.default_rng(seed).integers(0, 3, (layers, experts))
    found = balance(placement, Traffic(load=encode_counts(load)))
    assert found == pytest.approx(plain_balance(placement, load))


@pytest.mark.parametrize("load", [None, "", "AAAA", encode_counts(np.ones((9, 9), dtype=np.int64))])
def test_no_balance_without_counts_that_fit(load: str | None) -> None:
    assert balance(balanced_placement(2, 4, [2, 2]), Traffic(load=load)) is None


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [(None, None, None), (None, 0.5, "0.50"), ("0.50", 0.51, "0.50"), ("0.50", 0.6, "0.60"), ("0.50", None, "0.50")]
    + [(forged, 0.5, "0.50") for forged in ("good", "nan", "inf", "")],
)
def test_a_figure_is_told_anew_when_it_has_moved(before: str | None, now: float | None, told: str | None) -> None:
    assert steadied(before, now) == told
