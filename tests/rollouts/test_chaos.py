"""Requests whose model server and tools fail, stall and raise (benchmarks/soak.py: more)."""

from __future__ import annotations

import sys

from tests.rollouts.chaos import TOOL_FAILURES, Chaos, run_chaos
from tests.rollouts.script import EFFECTS


def test_servers_and_tools_that_fail_leave_no_wrong_effect_nothing_open_and_no_request_hangs():
    account = run_chaos(Chaos(requests=6, n=3, at_once=6, failing=0.2, server_failing=0.2, silence_seconds=1.0)).account
    sys.stdout.write(f"{dict(account.counts)}\n")
    assert account.violations == []
    assert account.counts["committed"]
    assert all(any(account.counts[f"{tool}: {how}"] for tool in EFFECTS) for how in TOOL_FAILURES)
    assert sum(name.startswith("server: ") for name in account.counts) >= 5
