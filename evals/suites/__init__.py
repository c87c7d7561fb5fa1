"""Suites of tasks with official checkers, behind one protocol; `registry.load_suite` finds them by name."""
