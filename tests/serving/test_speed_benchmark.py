"""The benchmark of speed: who runs with whom, what becomes of times, which tokens count as equal, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import speed
from benchmarks.contest import figures, machine, measurement
from benchmarks.contest.contestants import BASELINE, CONTESTANTS, stages, teams
from benchmarks.contest.equality import verdicts
from benchmarks.contest.figures import Case, Spread
from benchmarks.contest.limit import StepBytes, tokens_per_second
from benchmarks.contest.models import SIZES, TINY
from benchmarks.contest.rounds import interleaved, orders, prompts
from benchmarks.contest.runs import Run, Setting
from benchmarks.contest.team import TeamError
from benchmarks.serving.client import Ask

CASE = Case("tiny", "float32", batch=2, prompt=10, tokens=3)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], [("whole",)]),
        (["whole"], [("whole",)]),
        (["tcp", "local"], [("whole", "local", "tcp")]),
        (["http-unix"], [("whole", "http-unix")]),
        (["http-tcp", "unix", "whole"], [("whole", "unix"), ("whole", "http-tcp")]),
    ],
)
def test_each_stage_has_its_baseline_first(wanted: list[str], expected: list[tuple[str, ...]]) -> None:
    assert stages(wanted) == expected


def test_contestants_of_one_model_share_a_process_which_there_is() -> None:
    assert teams(["whole", "local", "continuous", "unix", "tcp"]) == {
        "unsharded": ("whole", "continuous"), "local": ("local",), "sharded": ("unix", "tcp"),
    }  # fmt: skip
    for module in teams(CONTESTANTS):
        assert find_spec(f"benchmarks.contest.{module}"), module
    assert all(name in CONTESTANTS for name in (BASELINE, *speed.SHORT.contestants))


def test_nobody_runs_always_behind_the_same_one() -> None:
    assert list(orders("abc", 3)) == [("a", "b", "c"), ("c", "b", "a"), ("a", "b", "c")]
    asked: list[str] = []

    def run(name: str) -> Run:
        asked.append(name)
        return Run(len(asked), 1.0, 1, ())

    runs = interleaved(["a", "b"], 2, run)
    assert asked == ["a", "b", "b", "a"]
    assert {name: [each.first_s for each in own] for name, own in runs.items()} == {"a": [1, 4], "b": [2, 3]}


def test_a_larger_batch_begins_with_the_smaller_one() -> None:
    large = prompts(4, 8, 50)
    assert large[:2] == prompts(2, 8, 50)
    assert len(set(large)) == 4
    assert all(len(prompt) == 8 and min(prompt) >= 10 and max(prompt) < 50 for prompt in large)


def test_the_prefill_ends_with_the_first_token_of_the_last_sequence() -> None:
    times = [[11.0, 12.0, 13.0, 14.0], [12.5, 13.0, 14.5]]
    run = Run.of(10.0, times, [[1, 2, 3, 4], [5, 6, 7]])
    assert run == Run(first_s=2.5, later_s=2.0, later=4, ids=((1, 2, 3, 4), (5, 6, 7)))
    assert Run.of(0.0, [[1.0]], [[3]]) == Run(1.0, 0.0, 0, ((3,),)), "one token has no decode"


def run_of(first_s: float, later_s: float, ids: tuple[tuple[int, ...], ...] = ((1, 2, 3), (4, 5, 6))) -> Run:
    return Run(first_s, later_s, 4, ids)


@pytest.mark.parametrize(
    ("values", "spread"),
    [([3.0], (3, 3, 3)), ([1.0, 3.0], (1.5, 2, 2.5)), ([4.0, 1.0, 3.0, 2.0, 5.0], (2, 3, 4))],
)
def test_median_and_quartiles(values: list[float], spread: tuple[float, float, float]) -> None:
    assert Spread.of(values) == Spread(*spread)


def test_ratios_are_to_the_baseline_of_the_same_round() -> None:
    runs = {
        "whole": [run_of(1.0, 1.0), run_of(2.0, 4.0), run_of(1.0, 1.0)],
        "unix": [run_of(2.0, 0.5), run_of(4.0, 2.0), run_of(1.0, 2.0)],
    }
    whole, unix = figures.rows(CASE, runs, {"whole": "eager", "unix": ""}, {"whole": "equal", "unix": "equal"})
    assert (whole.contestant, whole.how, whole.stage) == ("whole", "eager", ("whole", "unix"))
    assert whole.prefill == Spread(15, 20, 20), "2 prompts of 10 tokens in 1, 2 and 1 s"
    assert whole.prefill_ratio == whole.decode_ratio == Spread(1, 1, 1)
    assert unix.decode == Spread(2, 2, 5), "4 tokens in 0.5, 2 and 2 s"
    assert unix.prefill_ratio == Spread(0.5, 0.5, 0.75)
    assert unix.decode_ratio == Spread(1.25, 2.0, 2.0), "2, 2 and 0.5: a slow round of both is none of the second's"
    limit = figures.limit_row(CASE, runs, 8.0, "9 MB")
    assert limit.decode.median == 8.0
    assert limit.decode_ratio == Spread(2, 2, 5), "of 4, 1 and 4"
    text = figures.table(CASE, [whole, unix, limit])
    assert "tiny, float32, batch 2: prompts of 10 tokens, answers of 3" in text
    first = " ".join(text.splitlines()[2].split())
    assert first == "whole 20.0 (15.0–20.0) 1.00 (1.00–1.00) 4.0 (2.5–4.0) 1.00 (1.00–1.00) equal, eager"
    assert text.splitlines()[-1].split()[:4] == ["memory", "limit", "–", "–"]


def test_the_limit_is_what_is_read() -> None:
    step = StepBytes(others=1e9, experts=2.5e9, cache=0.5e9)
    assert tokens_per_second(step, batch=8, bandwidth=2e10) == 40.0


def test_what_differs_is_judged_once_and_a_tie_is_no_fault() -> None:
    asked: list[tuple[str, Ask, tuple[int, ...]]] = []
    other, tie = ((1, 2, 3), (4, 9, 9)), ((1, 8, 8), (4, 5, 6))

    def is_wrong(name: str, ask: Ask, answer: tuple[int, ...]) -> bool:
        asked.append((name, ask, answer))
        return answer == (4, 9, 9)

    runs = {
        "whole": [run_of(1, 1), run_of(1, 1)],
        "unix": [run_of(1, 1, other), run_of(1, 1, other)],
        "tcp": [run_of(1, 1, tie), run_of(1, 1)],
    }
    found = verdicts(((7, 7), (8, 8)), runs, is_wrong)
    assert found == {"whole": "equal", "unix": "WRONG in 1", "tcp": "equal but for ties in 1"}
    assert asked == [("unix", Ask((8, 8), 3), (4, 9, 9)), ("tcp", Ask((7, 7), 3), (1, 8, 8))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contestants", "local", "vllm"], "--contestants: there is no 'vllm'; take some of whole, generate,"),
        (["--models", "7b"], "--models: there is no '7b'; take some of tiny, 1b"),
        (["--batches", "4", "0"], "argument --batches: '0' is not a whole number from 1 to 1024"),
        (["--tokens", "1"], "argument --tokens: '1' is not a whole number from 2 to 100000"),
        (["--rounds", "many"], "argument --rounds: 'many' is not a whole number from 1"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--prompt", "1000"], "--prompt 1000 and --tokens 32 together exceed the 1024 tokens that model tiny takes"),
        (["--json", "{folder}"], "--json {folder} is a directory: name a file in it"),
        (["--json", "{folder}/no/rows.json"], "there is no folder {folder}/no: make it first"),
        (
            ["--models", "1b"],
            "--models 1b in float32 with --contestants whole generate continuous local unix tcp needs",
        ),
        (["--short"], "OMP_NUM_THREADS=1 is set, which may slow `whole` down: unset OMP_NUM_THREADS"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(speed, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(machine, "available_bytes", lambda: 9 << 30)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(SystemExit, match="2"):
        speed.main([argument.format(folder=tmp_path) for argument in arguments])
    assert message.format(folder=tmp_path) in capsys.readouterr().err


def test_available_memory_is_read(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:       7 kB\n")
    assert machine.available_bytes(tmp_path / "meminfo") == 7 * 1024
    (tmp_path / "other").write_text("MemTotal: 9 kB\n")
    with pytest.raises(OSError, match="does not say how much memory is available"):
        machine.available_bytes(tmp_path / "other")


def test_busy_cores_are_counted_without_idle_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stat").write_text("cpu  10 1 5 1000 200 2 3 4 0 0\ncpu0 5 0 2 500 100 1 1 2 0 0\n")
    assert machine._busy_ticks(tmp_path / "stat") == 10 + 1 + 5 + 2 + 3 + 4
    ticks = iter([0, machine.os.sysconf("SC_CLK_TCK")])
    monkeypatch.setattr(machine, "_busy_ticks", lambda: next(ticks))
    monkeypatch.setattr(machine, "LOOK_S", 0.1)
    assert 1 < machine.busy_cores() <= 10, "a second of a core in a tenth or more"


def test_only_what_steers_computing_is_refused() -> None:
    environment = {"HOME": "/", "GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE", "COMP_WORDS": "x"}
    assert machine.slowing(environment) == ["GOMP_SPINCOUNT=0", "OMP_WAIT_POLICY=PASSIVE"]


class FakeTeam:
    """A process that answers at once; ``unix`` by other tokens, and half as fast."""

    opened: list[tuple[str, Setting, Sequence[str]]] = []  # noqa: RUF012 - emptied by the fixture
    broken = ""

    def __init__(self, module: str, setting: Setting, wanted: Sequence[str]) -> None:
        self.opened.append((module, setting, wanted))

    def __enter__(self) -> FakeTeam:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_open(self) -> int:
        return 2

    def bandwidth(self) -> float:
        return 1e10

    def call(self, contestant: str, method: str, *arguments: Any) -> Any:
        if contestant == self.broken:
            raise TeamError(f"{contestant} is broken")
        if method == "warm_up":
            return contestant
        if method == "step_bytes":
            return StepBytes(1e9, 1e9, 0.0)
        asked, tokens = arguments
        slow = 1 + (contestant == "unix")
        ids = tuple((slow,) * tokens for _ in asked)
        return Run(0.5 * slow, 0.25 * slow, len(asked) * (tokens - 1), ids)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeTeam]:
    monkeypatch.setattr(measurement, "Team", FakeTeam)
    monkeypatch.setattr(machine, "slowing", lambda environment: [])
    monkeypatch.setattr(measurement, "busy_cores", lambda: 1.5)
    monkeypatch.setattr(FakeTeam, "opened", [])
    return FakeTeam


def judged(monkeypatch: pytest.MonkeyPatch, wrong: bool) -> None:
    judge = SimpleNamespace(is_wrong=lambda ask, tokens: wrong)
    monkeypatch.setattr(measurement, "Judge", lambda model, resume: judge)


def written_rows(path: Path) -> list[Mapping[str, Any]]:
    return json.loads(path.read_text())["rows"]


@pytest.mark.parametrize(("wrong", "code", "word"), [(True, 1, "WRONG in 4"), (False, 0, "equal but for ties in 4")])
def test_from_arguments_to_a_table_and_a_file(
    wrong: bool, code: int, word: str, fake: type[FakeTeam], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    judged(monkeypatch, wrong)
    file = tmp_path / "speed.json"
    command = ["--short", "--contestants", "unix", "http-tcp", "--batches", "4", "--json", str(file)]
    assert speed.main(command) == code
    setting = Setting(TINY, "float32", shards=2, batch=4, prompt=16, tokens=4)
    assert fake.opened == [
        ("unsharded", setting, ("whole",)), ("sharded", setting, ("unix",)),
        ("unsharded", setting, ("whole",)), ("http", setting, ("http-tcp",)),
    ]  # fmt: skip
    rows = written_rows(file)
    assert [(row["contestant"], row["tokens"]) for row in rows] == [
        ("whole", "equal"), ("unix", word), ("memory limit", ""), ("whole", "equal"), ("http-tcp", "equal"),
        ("memory limit", ""),
    ]  # fmt: skip
    assert rows[1]["decode_ratio"] == {"low": 0.5, "median": 0.5, "high": 0.5}
    assert rows[2]["decode"]["median"] == 4 * 1e10 / 2e9
    assert json.loads(file.read_text())["machine"]["threads"] == {"unsharded": 2, "http": 2}
    printed = capsys.readouterr().out
    assert "WARNING: 1.5 cores are busy though all contestants rest" in printed
    assert "tiny, float32, batch 4: prompts of 16 tokens, answers of 4" in printed
    assert word in printed


def test_in_bfloat16_nobody_judges_tokens(fake: type[FakeTeam], tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    command = ["--short", "--contestants", "unix", "--batches", "4", "--dtype", "bfloat16", "--json", str(file)]
    assert speed.main(command) == 0
    assert {row["tokens"] for row in written_rows(file)} == {""}


def test_a_contestant_that_fails_is_named(
    fake: type[FakeTeam], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fake, "broken", "tcp")
    assert speed.main(["--short", "--contestants", "tcp"]) == 1
    assert "speed: tcp is broken" in capsys.readouterr().err


def test_our_engine_has_room_for_what_it_is_asked() -> None:
    limits = Setting(TINY, "float32", shards=2, batch=32, prompt=128, tokens=32).limits
    assert (limits.max_running, limits.max_batch_tokens) == (32, 32 * 128)
    assert limits.kv_cache_tokens >= 32 * 160
    assert limits.queue_requests >= 32


def test_sizes_are_those_of_their_fields() -> None:
    for size in SIZES.values():
        if size.fields is not None:
            assert (size.vocabulary, size.context) == (
                size.fields["vocab_size"],
                size.fields["max_position_embeddings"],
            )
            layers, hidden = size.fields["num_hidden_layers"], size.fields["hidden_size"]
            experts = 3 * hidden * size.fields["intermediate_size"] * size.fields["num_experts"] * layers
            heads = 2 * (1 + size.fields["num_key_value_heads"] / size.fields["num_attention_heads"])
            others = heads * hidden**2 * layers + 2 * hidden * size.vocabulary
            assert size.parameters == pytest.approx(experts + others, rel=0.02)
