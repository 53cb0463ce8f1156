"""How the benchmark of idleness tells processes apart and sums them up; it runs for minutes, `make bench` does it."""

import pytest
from benchmarks.idle import NOTHING, REST, Row, kind_of, table


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("ray::ServeReplica:moe.default.tiny.560596a9:directory", "directory"),
        ("ray::ServeReplica:moe.default.tiny.560596a9:attention", "attention"),
        ("ray::tiny.560596a9:api.handle_request_with_rejection", "api"),
        ("ray::experts-0:experts.handle_request_with_rejection", "shards"),
        ("ray::ServeReplica:nothing:nothing", NOTHING),
        ("/x/bin/python -m moe_operator run --bind=127.0.0.1:26419", "operator"),
        ("ray::ServeController.listen_for_change", "Serve's controller"),
        ("/x/core/src/ray/raylet/raylet --raylet_socket_name=a", "Ray: raylet"),
        ("/x/bin/python -IS guard.py 1 3.0  /x/kube-apiserver-like", "Kubernetes: API server"),
        ("sleep 5", REST),
    ],
)
def test_processes_are_told_apart_by_their_titles(command: str, kind: str) -> None:
    assert kind_of(command) == kind


def test_times_are_summed_by_kind() -> None:
    rows = table([("shards", 0.5), ("shards", 0.7), ("api", 0.3), (REST, 2.0)], seconds=10)
    assert [row for row in rows if row.processes] == [
        Row("api", True, 1, pytest.approx(3.0)),
        Row("shards", True, 2, pytest.approx(12.0)),
        Row(REST, False, 1, pytest.approx(20.0)),
    ]
    assert [row.what for row in rows if not row.processes] == ["attention", "directory", "operator"]
