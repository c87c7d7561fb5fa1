"""`python -m evals calibrate`: thresholds from stored runs; rewards are not looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from entcent_agents.cli.calibration import Wanted, calibrate_on
from evals.errors import EvaluationError
from evals.scoring.candidates import category_of
from evals.store import StoredRollout, StoredRun, read_run


def calibrate(runs: Sequence[Path], only: Sequence[str], limit: int | None, wanted: Wanted) -> None:
    """Measure the stored rollouts, print what was found and write the thresholds down.

    Args:
        runs: Where they are.
        only: Where some are given, tasks of these suites, or suite/category, alone.
        limit: Only the first tasks of each run.
        wanted: What is measured, and where it goes.

    Raises:
        EntcentError: Where nothing is stored there, or nothing can be written.
    """
    wanted.require_sensible()
    stored = [read_run(path) for path in runs]
    models = {str(run.settings.get("model")) for run in stored}
    if len(models) > 1:
        raise EvaluationError(f"runs of {' and '.join(sorted(models))}: entropies of several models do not compare")
    tasks = [rollouts for run in stored for rollouts in islice(_named(run, only), limit)]
    if not tasks:
        raise EvaluationError("no task is stored there, or none that --only names")
    calibrate_on([[one.rollout.trajectory for one in rollouts] for rollouts in tasks], models.pop(), wanted)


def _named(run: StoredRun, only: Sequence[str]) -> Iterator[Sequence[StoredRollout]]:
    for rollouts in run.tasks.values():
        if not only or {rollouts[0].suite, category_of(rollouts[0])} & {*only}:
            yield rollouts
