"""All that the other process does: pure functions of this release, by name. Nothing else can be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from moe_contract.serve.state import read_state
from moe_operator.offload.names import PLANNING, job_name
from moe_operator.rebalance.proposal import propose
from moe_operator.reconcile.foresight import foresee
from moe_operator.reconcile.intent import next_intent
from moe_operator.runtimes.ray_cluster.nodes import read_nodes
from moe_operator.runtimes.report import parse_report
from moe_placement.solver.solver import compile_kernels

_ALL: tuple[Callable[..., Any], ...] = (read_state, read_nodes, parse_report, next_intent, foresee, propose)

JOBS: Mapping[str, Callable[..., Any]] = MappingProxyType({job_name(job): job for job in _ALL})

PREPARATIONS: Mapping[str, Callable[[], None]] = MappingProxyType({PLANNING: compile_kernels})
"""What a process may do before its first job, without a bound on time and memory: nothing of it comes from others."""
