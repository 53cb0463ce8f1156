"""Figure 8's traffic: what is planned on and what is judged on have nothing in common but the model."""

import numpy as np
import pytest
from benchmarks.brain.figure_shift import CONTINUATION, CONTINUED, PROMPT, at_loss, to_decode, to_other_text

from moe_placement.traces import Trace, read_trace


@pytest.fixture(scope="module")
def continued() -> Trace:
    return read_trace(CONTINUED)


def kinds(trace: Trace) -> set[str]:
    return {trace.domains[number] for number in np.unique(trace.domain)}


def test_the_shipped_trace_holds_each_prompt_and_what_continues_it(continued: Trace) -> None:
    tokens = len(continued.prompt) // len(np.unique(continued.prompt))
    rows = continued.domain.reshape(-1, tokens)
    assert (continued.prompt.reshape(-1, tokens) == np.arange(len(rows))[:, None]).all()
    names = np.array(continued.domains)[rows]
    assert (np.char.endswith(names, PROMPT) | np.char.endswith(names, CONTINUATION)).all()
    assert (np.diff(np.char.endswith(names, CONTINUATION).astype(int), axis=1) >= 0).all()
    assert continued.ids.shape[1:] == (6, 2)
    # The second token written is not routed as the prompt's second was: these are no copies.
    assert (continued.ids[: tokens // 2] != continued.ids[tokens // 2 : tokens]).any()


def test_decode_is_judged_on_other_prompts_than_prefill_was_planned_on(continued: Trace) -> None:
    shifts = to_decode(continued)
    assert len(shifts) >= 6
    for seen, traffic in shifts:
        assert not set(seen.prompt) & set(traffic.prompt)
        assert all(name.endswith(PROMPT) for name in kinds(seen))
        assert all(name.endswith(CONTINUATION) for name in kinds(traffic))


def test_each_kind_of_text_in_turn_is_planned_on_and_not_judged_on(continued: Trace) -> None:
    shifts = to_other_text(continued)
    assert [kinds(seen) for seen, _ in shifts] == [{name} for name in continued.domains]
    assert all(not kinds(seen) & kinds(traffic) for seen, traffic in shifts)


@pytest.mark.parametrize(
    ("points", "saved"),
    [
        ([(0.2, 0.04), (0.1, 0.01)], 0.2 - 0.1 * 2 / 3),  # between two points
        ([(0.2, 0.015), (0.1, 0.01)], 0.2),  # all are below the loss: the most that is saved
        ([(0.2, 0.05), (0.1, 0.03)], 0.0),  # all are above it
        ([], 0.0),
    ],
)
def test_what_is_saved_at_a_loss_lies_on_the_line(points: list[tuple[float, float]], saved: float) -> None:
    assert at_loss(points, 0.02) == pytest.approx(saved)
