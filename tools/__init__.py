"""Tool sets of the applications: they act on the forks of the rollout they run in, never on the real thing."""
