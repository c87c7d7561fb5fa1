"""One task: its candidates under every selector."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from entcent_agents.recordings import Recorded
from entcent_agents.segments import SegmentKind
from entcent_agents.selection import Selection, Selector
from entcent_agents.signals import SIGNALS, SignalSettings, signal_value
from entcent_agents.trajectory import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """What came of one task; holds no trajectories.

    Attributes:
        task: Its name.
        candidates: Plain data of each candidate: where it was read, its measures and signals, its reward.
        left_out: How many rollouts had not finished: they are no candidates.
        selections: What each selector answered, by its name.
        rewards: Of the candidates; None where not all of them have one.
        null_rewards: Mean reward of what each selector chose when the trajectories were shuffled among the candidates.
    """

    task: str
    candidates: Sequence[Mapping[str, Any]]
    left_out: int
    selections: Mapping[str, Selection]
    rewards: tuple[float, ...] | None
    null_rewards: Mapping[str, float]

    @property
    def random_reward(self) -> float:
        """Expected reward of a random choice."""
        return float(np.mean(self.rewards or ()))

    def reward(self, selector: str) -> float:
        """Reward of the selected candidate; of a random choice where the selector abstained."""
        return _reward(self.selections[selector], self.rewards or ())


def score_task(
    recorded: Sequence[Recorded],
    selectors: Mapping[str, Selector],
    settings: SignalSettings,
    *,
    kinds: Collection[SegmentKind] = (),
    shuffles: int,
    rng: np.random.Generator,
) -> TaskScore | None:
    """Ask every selector about the rollouts of one task that finished; None where none did.

    Args:
        recorded: The rollouts.
        selectors: By name.
        settings: What the signals beside each candidate are measured with.
        kinds: Where some are given, tokens of these kinds alone count.
        shuffles: How often the null control shuffles; it is skipped where rewards are missing.
        rng: For the shuffles.
    """
    finished = [one for one in recorded if one.rollout.status == "finished"]
    if not finished:
        return None
    rollouts = [_candidate(one.rollout, index, kinds) for index, one in enumerate(finished)]
    known = [one.reward for one in finished if one.reward is not None]
    rewards = tuple(known) if len(known) == len(finished) else None
    null: dict[str, float] = {}
    if rewards is not None and shuffles:
        drawn: dict[str, list[float]] = {name: [] for name in selectors}
        for _ in range(shuffles):
            order = rng.permutation(len(rollouts)).tolist()
            shuffled = [
                replace(rollout, trajectory=rollouts[i].trajectory) for rollout, i in zip(rollouts, order, strict=True)
            ]
            for name, selector in selectors.items():
                drawn[name].append(_reward(selector.select(shuffled), rewards))
        null = {name: float(np.mean(found)) for name, found in drawn.items()}
    return TaskScore(
        task=finished[0].task,
        candidates=[_measures(one, rollout, settings) for one, rollout in zip(finished, rollouts, strict=True)],
        left_out=len(recorded) - len(finished),
        selections={name: selector.select(rollouts) for name, selector in selectors.items()},
        rewards=rewards,
        null_rewards=null,
    )


def _reward(selection: Selection, rewards: Sequence[float]) -> float:
    return float(np.mean(rewards)) if selection.winner is None else rewards[selection.winner]


def _candidate(rollout: Rollout, index: int, kinds: Collection[SegmentKind]) -> Rollout:
    trajectory = rollout.trajectory.only(kinds) if kinds else rollout.trajectory
    return replace(rollout, index=index, trajectory=trajectory)


def _measures(recorded: Recorded, rollout: Rollout, settings: SignalSettings) -> dict[str, Any]:
    trajectory = rollout.trajectory
    return {
        "candidate": rollout.index,
        "source": recorded.source,
        "reward": recorded.reward,
        "outcome": rollout.vote_key,
        "generated_tokens": trajectory.generated_tokens,
        "scored_tokens": trajectory.scored_tokens,
        "coverage": trajectory.coverage,
        "top_k": trajectory.top_k,
        "phases": trajectory.phases(settings.phases),
        "signals": {name: signal_value(trajectory, name, settings) for name in SIGNALS},
    }
