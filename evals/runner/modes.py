"""How a task's rollouts are made, by name; apart from the settings, so that a command line can list them at once."""

from __future__ import annotations

from typing import Literal

Mode = Literal["single", "parallel", "step", "branching", "adaptive", "adaptive-labels"]
"""One rollout a task; all of them to their ends, side by side; one, which takes the best of `n` answers at each step;
few, which branch up to `n`; then what tasks did not use of their `n` for those that used all of theirs, or for those
that labels say are unsolved."""
