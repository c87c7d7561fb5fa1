"""The commit record: several targets change together, or none does, whenever the process dies.

A commit, with the locks of all its targets held: seal the forks; leave a pointer beside every target; publish one
record (the decision); replace the targets; remove the record; clean up. Whoever opens any of the targets later and
finds a pointer takes the same locks. If the record is there, the commit was decided and is finished; if it is not,
it was never decided or is wholly done, and the pointer goes.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from entcent_agents.environments import pages, tree
from entcent_agents.environments.durable import remove_durably, write_durably
from entcent_agents.environments.protocol import Sealed
from entcent_agents.environments.staging import Staging, all_locks, remove_fork
from entcent_agents.errors import EnvironmentConflictError

Observer = Callable[[str], None]
_MECHANISMS = {"sqlite": pages, "directory": tree}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """What lies beside a target while a commit is under way: the record to look for, and whose locks to take."""

    record: Path
    targets: tuple[Path, ...]


def read_pointer(target: Path) -> Pointer | None:
    """The pointer beside a target, if any."""
    try:
        content = json.loads(Staging(target).pointer.read_text())
    except FileNotFoundError:
        return None
    return Pointer(record=Path(content["record"]), targets=tuple(Path(path) for path in content["targets"]))


def recover(target: Path) -> None:
    """Finish what a crash interrupted at a target, with all the other targets of that commit, and sweep.

    Waits while a living process is committing.

    Raises:
        EnvironmentConflictError: Somebody else changed a target after the crash; a person has to decide.
    """
    while Staging(target).exists():
        pointer = read_pointer(target)
        with all_locks([target, *(pointer.targets if pointer else ())]):
            if read_pointer(target) != pointer:
                continue  # another process was faster, and other locks may be needed now
            if pointer is not None:
                _finish(pointer)
            Staging(target).sweep()
            return


def discard(target: Path, folder: Path) -> None:
    """Remove a fork's folder, and the staging folder with the last of them.

    A fork that a half-done commit still needs stays: the next opening finishes that commit and removes it.
    """
    if folder.exists():
        with Staging(target).lock():
            if read_pointer(target) is None:
                remove_fork(folder)


def publish_and_apply(sealed: Sequence[Sealed], observe: Observer) -> None:
    """Commit sealed forks together. Call it with all their targets' exclusive locks held and no pointer there.

    Args:
        sealed: One or more, of different targets.
        observe: Called with the name of each step once it is done.

    Raises:
        EnvironmentConflictError: A target changed since its fork, or is locked; nothing was done.
        OSError: A target cannot be replaced. Nothing was done, or (if others were already replaced) the record stays,
            and the next opening of any target finishes the commit.
    """
    # Innermost first means applied first: a directory's exchange can be refused by its file system, and then the
    # databases around it have not been written yet.
    ordered = sorted(sealed, key=lambda item: (item.kind == "directory", item.target))
    targets = tuple(Path(item.target) for item in ordered)
    record = Staging(targets[0]).path / f"commit-{secrets.token_hex(8)}.json"
    _write_pointers(Pointer(record=record, targets=targets))
    observe("pointed")

    def publish() -> None:
        write_durably(record, json.dumps({"sealed": [item.as_dict() for item in ordered]}))
        observe("published")

    try:
        _replace_all(ordered, publish, observe)
    except Exception:
        if not record.exists() or all(_MECHANISMS[item.kind].state(item) == "before" for item in ordered):
            remove_durably(record)
            _remove_pointers(targets)
        raise
    _clean_up(ordered, record, observe)


def _replace_all(ordered: Sequence[Sealed], publish: Callable[[], None], observe: Observer) -> None:
    """Replace every target, each inside the write lock of those before it, with `publish` inside them all."""
    if not ordered:
        publish()
        return
    first, rest = ordered[0], ordered[1:]
    _MECHANISMS[first.kind].replace(first, lambda: _replace_all(rest, publish, observe))
    observe(f"applied {first.kind}")


def _finish(pointer: Pointer) -> None:
    """Roll a commit forward, or drop its pointers where there is no record."""
    try:
        content = json.loads(pointer.record.read_text())
    except FileNotFoundError:
        _remove_pointers(pointer.targets, only=pointer)
        return
    sealed = [Sealed(**item) for item in content["sealed"]]
    states = {item.target: _MECHANISMS[item.kind].state(item) for item in sealed}
    for item in sealed:
        if states[item.target] == "other":
            raise EnvironmentConflictError(
                f"{item.target} was changed by somebody else after a commit was interrupted: copy {item.staged} over "
                f"it to finish that commit, or remove {pointer.record} to leave it as it is, and open it again"
            )
    for item in sealed:
        if states[item.target] == "before":
            _MECHANISMS[item.kind].replace(item, _nothing)
    _clean_up(sealed, pointer.record, lambda _step: None)


def _clean_up(sealed: Sequence[Sealed], record: Path, observe: Observer) -> None:
    for item in sealed:
        if item.kept:
            Staging(Path(item.target)).write_receipt(Path(item.fork))
    remove_durably(record)
    observe("removed")
    _remove_pointers([Path(item.target) for item in sealed])
    for item in sealed:
        remove_fork(Path(item.fork))


def _write_pointers(pointer: Pointer) -> None:
    text = json.dumps({"record": str(pointer.record), "targets": [str(target) for target in pointer.targets]})
    for target in pointer.targets:
        write_durably(Staging(target).pointer, text)


def _remove_pointers(targets: Sequence[Path], *, only: Pointer | None = None) -> None:
    for target in targets:
        if only is None or read_pointer(target) == only:
            remove_durably(Staging(target).pointer)


def _nothing() -> None:
    """What happens between check and replacement when the decision was made long ago."""
