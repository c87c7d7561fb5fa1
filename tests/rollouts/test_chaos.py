"""Requests whose tools raise, answer with error text or stall (benchmarks/chaos.py: more)."""

from __future__ import annotations

import sys

from tests.rollouts.chaos import Chaos, run_chaos


def test_tools_that_fail_leave_no_effect_of_a_loser_none_twice_and_no_request_hangs():
    account = run_chaos(Chaos(requests=6, n=3, failing=0.2))
    sys.stdout.write(f"{dict(account.counts)}\n")
    assert account.violations == []
    assert account.counts["committed"]
    assert all(account.counts[f"note: {how}"] for how in ("raised", "answered with error text", "stalled"))
