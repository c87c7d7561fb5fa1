"""Running tasks times rollouts against a model, each rollout stored as it ends."""
