"""The rollout engine: isolation, the pool, what a rollout leaves behind."""
