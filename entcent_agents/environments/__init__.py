"""Worlds that tools change: fork one for each rollout, commit the winner's fork, discard the others."""

from __future__ import annotations

from entcent_agents.environments.commit import commit
from entcent_agents.environments.current import current_environment, has_environments, use_environments
from entcent_agents.environments.directory import DirectoryEnvironment, DirectoryFork
from entcent_agents.environments.forks import StagedEnvironment, StagedFork
from entcent_agents.environments.group import discard_all, fork_all
from entcent_agents.environments.journal import JournalEnvironment, JournalFork, JournalTarget, Versioned
from entcent_agents.environments.memory import MemoryEnvironment, MemoryFork
from entcent_agents.environments.protocol import Change, Environment, Fork
from entcent_agents.environments.sqlite import SqliteEnvironment, SqliteFork

__all__ = [
    "Change",
    "DirectoryEnvironment",
    "DirectoryFork",
    "Environment",
    "Fork",
    "JournalEnvironment",
    "JournalFork",
    "JournalTarget",
    "MemoryEnvironment",
    "MemoryFork",
    "SqliteEnvironment",
    "SqliteFork",
    "StagedEnvironment",
    "StagedFork",
    "Versioned",
    "commit",
    "current_environment",
    "discard_all",
    "fork_all",
    "has_environments",
    "use_environments",
]
