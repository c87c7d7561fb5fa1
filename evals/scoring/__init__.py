"""Stored rollouts under every selector, without a model: how right each is, with intervals and a null control."""
