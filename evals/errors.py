"""Every error the evaluation raises on purpose.

    EntcentError
    └── EvaluationError
        ├── SuiteUnknownError       no suite of this name
        ├── SuiteMissingError       the packages of a suite are not installed; the message has the command
        ├── SuiteMalformedError     the data of a suite cannot be read: where, what was expected
        └── SuiteInstallError       installing the packages of a suite failed

Messages say what was seen and what to do about it, in one line: the command line prints them as they are.
"""

from __future__ import annotations

from entcent_agents.errors import EntcentError


class EvaluationError(EntcentError):
    """Something is wrong with a suite, a run or its store."""


class SuiteUnknownError(EvaluationError):
    """No suite of this name."""


class SuiteMissingError(EvaluationError):
    """The packages of a suite are not installed.

    Args:
        suite: Name of the suite.
        package: What could not be imported.
    """

    def __init__(self, suite: str, package: str) -> None:
        super().__init__(f"suite {suite} needs {package}: run  python -m evals install {suite}")


class SuiteMalformedError(EvaluationError):
    """The data of a suite cannot be read: where, what was expected."""


class SuiteInstallError(EvaluationError):
    """Installing the packages of a suite failed."""
