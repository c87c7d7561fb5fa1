"""An environment as a user would write it: one text file, copied and replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from entcent_agents.environments import Change, StagedEnvironment, StagedFork
from entcent_agents.environments.durable import sync_path
from entcent_agents.environments.forks import new_folder, reopened_folder, write_base
from entcent_agents.environments.protocol import Sealed, State
from entcent_agents.errors import EnvironmentConflictError


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


class TextFork(StagedFork["TextEnvironment"]):
    def diff(self) -> tuple[Change, ...]:
        self._require()
        if digest(self.path) == self._base():
            return ()
        text, name = self.path.read_text(), self.environment.name
        return (Change(target=name, kind="file", subject=name, what="changed", text=text, digest=digest(self.path)),)

    def seal(self) -> Sealed | None:
        self._require()
        if digest(self.path) == self._base():
            return None
        self._flush()
        return Sealed(
            kind="text",
            target=str(self.environment.path),
            fork=self.reference,
            staged=str(self.path),
            base=self._base(),
            mark=digest(self.path),
            kept=self._kept(),
        )

    def _copy(self, path: Path) -> None:
        shutil.copyfile(self.path, path)

    def _flush(self) -> None:
        sync_path(self.path)
        sync_path(self.path.parent)


class Replacing:
    """Puts the staged file in the target's place."""

    def state(self, sealed: Sealed) -> State:
        seen = digest(Path(sealed.target))
        return "after" if seen == sealed.mark else "before" if seen == sealed.base else "other"

    def replace(self, sealed: Sealed, then: Callable[[], None]) -> None:
        if digest(Path(sealed.target)) != sealed.base:
            raise EnvironmentConflictError(f"{sealed.target} changed since it was forked")
        then()
        fresh = Path(f"{sealed.target}.fresh")
        shutil.copyfile(sealed.staged, fresh)
        sync_path(fresh)
        fresh.replace(sealed.target)
        sync_path(fresh.parent)


class TextEnvironment(StagedEnvironment):
    mechanism = Replacing()

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.path = path.resolve()
        self.recover()

    def fork(self) -> TextFork:
        with new_folder(self.path) as folder:
            fork = TextFork(self, folder)
            shutil.copyfile(self.path, fork.path)
            write_base(folder, digest(fork.path))
            return fork

    def reopen(self, reference: str) -> TextFork:
        return TextFork(self, reopened_folder(self.path, reference))
