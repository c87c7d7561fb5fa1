"""Where to branch a rollout, and how many branches there may be: pure decisions."""

from entcent_agents.branching.point import BranchPoint

__all__ = ["BranchPoint"]
