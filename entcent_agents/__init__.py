"""Test-time scaling for agents: parallel rollouts, selected by where their token entropy sits."""
