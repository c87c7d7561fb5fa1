"""Measurements: what it costs and how often it is right. Never part of the tests."""
