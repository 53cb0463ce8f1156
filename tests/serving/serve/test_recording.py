"""Real traffic of the real data plane in files, and what the brain makes of them."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moe_contract.applications import AttentionConfig, RecordConfig
from moe_contract.report import NOT_RECORDED, DirectoryReport
from moe_placement.cli import main
from moe_placement.traces import Trace, read_trace
from moe_serving.checkpoint import inspect_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BURSTS, AT_ONCE, TOKENS = 3, 8, 8
WINDOW_S = 1.3
"""After which what is routed is counted as another prompt."""
WRITTEN_S = 30.0


def ask(openai) -> int:
    """Some traffic; returns its rows: of each answer the last token is never computed."""

    def one(first: int) -> None:
        prompt = [first, 9, 40, 50, 60]
        openai.completions.create(model="tiny", prompt=prompt, max_tokens=TOKENS, extra_body={"ignore_eos": True})

    for burst in range(BURSTS):
        with ThreadPoolExecutor(AT_ONCE) as clients:
            list(clients.map(one, range(5 + burst * AT_ONCE, 5 + (burst + 1) * AT_ONCE)))
        time.sleep(WINDOW_S)
    return BURSTS * AT_ONCE * (5 + TOKENS - 1)


def cannot_record(report: DirectoryReport) -> bool:
    return all(NOT_RECORDED in (replica.problem or "") for replica in report.attention)


def traces_in(folder: Path, rows: int) -> list[tuple[str, Trace]]:
    """Who wrote each, and what, once there are ``rows``."""
    end = time.monotonic() + WRITTEN_S
    while True:
        found = [(file.name.split("-")[2], read_trace(file)) for file in folder.glob("*.npz")]
        written = sum(len(trace) for _, trace in found)
        if written >= rows:
            return found
        assert time.monotonic() < end, f"waited {WRITTEN_S:g} s for {rows} rows to be written: {written}"
        time.sleep(0.2)


def test_traffic_is_recorded_live_and_replayed(plane, openai, tiny, tmp_path: Path, capsys) -> None:
    before, folder = plane.pids(), tmp_path / "traces"
    (tmp_path / "file").touch()
    try:
        plane.set_attention(AttentionConfig(record=RecordConfig(path=str(tmp_path / "file"))))
        plane.wait(cannot_record, "replicas that cannot record")
        plane.set_attention(AttentionConfig(record=RecordConfig(path=str(folder))))
        plane.wait(lambda report: not any(replica.problem for replica in report.attention), "replicas that can")
        rows = ask(openai)
    finally:
        plane.set_attention(AttentionConfig())
    found = traces_in(folder, rows)
    facts = inspect_model(str(tiny), "float32")
    assert {trace.ids.shape[1:] for _, trace in found} == {(facts.layers, facts.top_k)}
    assert sum(len(trace) for _, trace in found) == rows, "all of it, once"
    assert len({owner for owner, _ in found}) == len(found) == 2, "a file of each replica"
    assert main(["compare", str(folder), "--shards", "2", "--slots", str(facts.experts // 2 + 1)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("moe-placement ")
    assert plane.pids() == before
