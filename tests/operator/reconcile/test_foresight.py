"""What the brain's plans for other numbers of shards would bring."""

import numpy as np
from data_plane import DataPlane, deployment
from moe_facts import FACTS

from moe_contract.report import Traffic
from moe_operator.reconcile.foresight import foresee
from moe_placement.encoding import encode_counts


def test_no_more_is_planned_than_up_to_the_first_that_is_good() -> None:
    made = DataPlane(deployment(shards=4, slotsPerShard=4))
    made.settle()
    counts = np.ones((FACTS.layers, FACTS.experts), dtype=np.int64)
    made.traffic = Traffic(layer_rows=1, load=encode_counts(counts))
    # 8 experts do not fit 4 slots; two shards would be busy 60% each, three at least a third of 120%.
    assert [plan.shards for plan in foresee(made.world(), (1, 2, 3), 1.2, None)] == [1, 2]
    assert [plan.shards for plan in foresee(made.world(), (1, 2, 3), 1.2, 0.7)] == [1, 2]
    assert [plan.shards for plan in foresee(made.world(), (1, 2, 3), 1.2, 0.5)] == [1, 2, 3]
