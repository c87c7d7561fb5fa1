"""Where to branch a rollout, how many branches there may be, and what ends early: pure decisions."""

from entcent_agents.branching.calibration import Calibration
from entcent_agents.branching.decisions import DecisionToken, decision_tokens
from entcent_agents.branching.hesitation import Hesitation, hesitation
from entcent_agents.branching.point import BranchPoint
from entcent_agents.branching.policy import BranchPolicy
from entcent_agents.branching.pool import BudgetPool, allocate
from entcent_agents.branching.stopping import EarlyStopping
from entcent_agents.branching.watch import Watch

__all__ = [
    "BranchPoint",
    "BranchPolicy",
    "BudgetPool",
    "Calibration",
    "DecisionToken",
    "EarlyStopping",
    "Hesitation",
    "Watch",
    "allocate",
    "decision_tokens",
    "hesitation",
]
