"""The commit record: several targets change together, or none does, whenever the process dies.

A commit, with the locks of all its targets held: seal the forks; leave a pointer beside every target; publish one
record (the decision); replace the targets; remove the record; clean up. Whoever opens any of the targets later and
finds a pointer takes the same locks. If the record is there, the commit was decided and is finished; if it is not,
it was never decided or is wholly done, and the pointer goes.

Databases and directories can be finished by anybody. Other targets can be by their own environment alone: their part
of the record stays until that is opened.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from entcent_agents.environments import pages, tree
from entcent_agents.environments.durable import remove_durably, write_durably
from entcent_agents.environments.protocol import Mechanism, Sealed
from entcent_agents.environments.staging import Staging, all_locks, remove_fork
from entcent_agents.errors import EnvironmentConflictError, EnvironmentFault

Observer = Callable[[str], None]
Mechanisms = Mapping[Path, Mechanism]
"""Of the targets whose environments this process has at hand."""
_MECHANISMS: Mapping[str, Mechanism] = {"sqlite": pages, "directory": tree}
_ORDER = {"sqlite": 0, "directory": 1}


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


def recover(target: Path, mechanisms: Mechanisms) -> None:
    """Finish what a crash interrupted at a target, with all the other targets of that commit, and sweep.

    Waits while a living process is committing.

    Raises:
        EnvironmentConflictError: Somebody else changed a target after the crash; a person has to decide.
        Exception: What a target of the user's own raised; the commit can be finished later.
    """
    while Staging(target).exists():
        pointer = read_pointer(target)
        with all_locks([target, *(pointer.targets if pointer else ())]):
            if read_pointer(target) != pointer:
                continue  # another process was faster, and other locks may be needed now
            if pointer is not None:
                _finish(pointer, mechanisms)
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


def publish_and_apply(sealed: Sequence[Sealed], mechanisms: Mechanisms, observe: Observer) -> Exception | None:
    """Commit sealed forks together. Call it with all their targets' exclusive locks held and no pointer there.

    Args:
        sealed: One or more, of different targets.
        mechanisms: Of all the targets.
        observe: Called with the name of each step once it is done.

    Returns:
        What broke the commit off after it was decided; the record stays, and the next opening of the targets finishes
        it. None where all is done.

    Raises:
        EnvironmentConflictError: A target changed since its fork, or is locked; nothing was done.
        Exception: A target cannot be replaced; nothing was done.
    """
    # Innermost is applied first: what lies in somebody else's hands is the likeliest to refuse, then a directory's
    # file system, and then the databases around them have not been written yet.
    ordered = sorted(sealed, key=lambda item: (_ORDER.get(item.kind, len(_ORDER)), item.target))
    targets = tuple(Path(item.target) for item in ordered)
    record = Staging(targets[0]).path / f"commit-{secrets.token_hex(8)}.json"
    _write_pointers(Pointer(record=record, targets=targets))
    observe("pointed")

    def publish() -> None:
        _write_record(record, ordered)
        observe("published")

    applied: list[Sealed] = []
    try:
        _replace_all(ordered, mechanisms, publish, observe, applied)
    except Exception as error:
        # Who raises a conflict did nothing; what else went wrong may have come after the deed.
        refused = isinstance(error, EnvironmentConflictError) and not applied
        if record.exists() and not refused and not _all_untouched(ordered, mechanisms):
            return _not_a_conflict(error)
        remove_durably(record)
        _remove_pointers(targets)
        raise
    _clean_up(ordered, record, targets, observe)
    return None


def _not_a_conflict(error: Exception) -> Exception:
    """The error, in words that do not say that nothing was committed."""
    if not isinstance(error, EnvironmentConflictError):
        return error
    told = EnvironmentFault(
        f"{error}; other parts of this commit are done: open the environment again to see the way on"
    )
    told.__cause__ = error
    return told


def _all_untouched(sealed: Sequence[Sealed], mechanisms: Mechanisms) -> bool:
    """Whether nothing at all was applied; what cannot be told counts as applied, and is looked at again later."""
    try:
        return all(mechanisms[Path(item.target)].state(item) == "before" for item in sealed)
    except Exception:
        return False


def _replace_all(
    ordered: Sequence[Sealed],
    mechanisms: Mechanisms,
    publish: Callable[[], None],
    observe: Observer,
    applied: list[Sealed],
) -> None:
    """Replace every target, each inside the write lock of those before it, with `publish` inside them all."""
    if not ordered:
        publish()
        return
    first, rest = ordered[0], ordered[1:]
    mechanisms[Path(first.target)].replace(first, lambda: _replace_all(rest, mechanisms, publish, observe, applied))
    applied.append(first)
    observe(f"applied {first.kind}")


def _finish(pointer: Pointer, mechanisms: Mechanisms) -> None:
    """Roll a commit forward, as far as this process can, or drop its pointers where there is no record."""
    try:
        content = json.loads(pointer.record.read_text())
    except FileNotFoundError:
        _remove_pointers(pointer.targets, only=pointer)
        return
    everything = [Sealed(**item) for item in content["sealed"]]
    found = {item.target: mechanisms.get(Path(item.target)) or _MECHANISMS.get(item.kind) for item in everything}
    known = {target: mechanism for target, mechanism in found.items() if mechanism}
    sealed = [item for item in everything if item.target in known]
    states = {item.target: known[item.target].state(item) for item in sealed}
    for item in sealed:
        if states[item.target] == "other":
            raise EnvironmentConflictError(
                f"{item.target} was changed by somebody else after a commit was interrupted: "
                f"{_by_hand(item)} to finish that commit, or remove {pointer.record} to leave it as it is, and open "
                "it again"
            )
    for item in sealed:
        if states[item.target] in ("before", "partly"):
            known[item.target].replace(item, _nothing)
    rest = [item for item in everything if item.target not in known]
    others = {Path(item.target) for item in rest}
    _clean_up(sealed, pointer.record, [path for path in pointer.targets if path not in others], _ignore, rest)


def _by_hand(item: Sealed) -> str:
    """What a person would do to have a commit its way."""
    if item.kind == "journal":
        return f"put it back to what the first open write in {item.staged} expects (sqlite3, tables writes and applied)"
    return f"copy {item.staged} over it"


def _clean_up(
    sealed: Sequence[Sealed], record: Path, targets: Sequence[Path], observe: Observer, rest: Sequence[Sealed] = ()
) -> None:
    """Remove what a commit left at the targets that are done; the record stays for the rest."""
    for item in sealed:
        if item.kept:
            Staging(Path(item.target)).write_receipt(Path(item.fork))
    _write_record(record, rest) if rest else remove_durably(record)
    observe("removed")
    _remove_pointers(targets)
    for item in sealed:
        remove_fork(Path(item.fork))


def _write_record(record: Path, sealed: Sequence[Sealed]) -> None:
    write_durably(record, json.dumps({"sealed": [item.as_dict() for item in sealed]}))


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


def _ignore(_step: str) -> None:
    """Nobody observes a commit that is finished later."""
