"""Every error the evaluation raises on purpose.

    EntcentError
    └── EvaluationError
        ├── SuiteUnknownError       no suite of this name
        ├── SuiteMissingError       the packages of a suite are not installed; the message has the command
        ├── SuiteMalformedError     the data of a suite cannot be read: where, what was expected
        ├── SuiteInstallError       installing the packages of a suite failed
        ├── StoreError              a store of rollouts cannot be read or written; what is in it stays
        │   └── StoreVersionError   it is of a schema that this release does not read
        ├── RunSettingsError        a run cannot go on in this store: it was begun with other settings
        ├── RunBrokenOffError       the model stopped answering; what had ended is stored
        └── SplitError              parameters would have been chosen on the tasks they are tested on

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


class StoreError(EvaluationError):
    """A store of rollouts cannot be read or written; what is in it stays."""


class StoreVersionError(StoreError):
    """A store of a schema that this release does not read."""


class RunSettingsError(EvaluationError):
    """A run cannot go on in this store: it was begun with other settings."""


class RunBrokenOffError(EvaluationError):
    """The model stopped answering; what had ended is stored."""


class SplitError(EvaluationError):
    """Parameters would have been chosen on the tasks that they are tested on, or on none."""
