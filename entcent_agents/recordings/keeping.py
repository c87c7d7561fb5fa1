"""Recording rollouts as they are made: which, with what of their text, and for how long."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec

from entcent_agents.errors import ConfigurationError
from entcent_agents.recordings.appending import append_lines
from entcent_agents.recordings.rollouts import rollout_record
from entcent_agents.trajectory import Rollout

Redactor = Callable[[str], str]
Messages = Callable[[Rollout], Sequence[Mapping[str, Any]]]
_DAY: Final = re.compile(r"rollouts-(\d{4}-\d{2}-\d{2})\.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRound:
    """What is known of a round when it is committed.

    Attributes:
        task: What its rollouts are candidates for.
        rollouts: All of them.
        selected: The index of the one that was committed.
    """

    task: str
    rollouts: Sequence[Rollout]
    selected: int


@dataclass(frozen=True, slots=True)
class Records:
    """A folder of recorded rollouts, one file a day (UTC), which `read_recordings` and `entcent score` read.

    Attributes:
        folder: Where; made where it is not there.
        which: The rollout that was selected, or all of a round.
        text: Whether to keep what the tokens say, and the messages.
        redact: Applied to every text that is written: to messages, tool arguments, errors, and ids, the task's too.
            What the tokens say is left out of a rollout in which it changes anything, as tokens have no place for what
            it puts there, and of one that failed. Called in a thread.
        max_age_days: A file is removed when its day is longer ago; None keeps all.

    Raises:
        ConfigurationError: On settings that cannot work.
    """

    folder: Path | str
    which: Literal["selected", "all"] = "selected"
    text: bool = False
    redact: Redactor | None = None
    max_age_days: int | None = None

    def __post_init__(self) -> None:
        if self.which not in ("selected", "all"):
            raise ConfigurationError(f"which={self.which!r} must be 'selected' or 'all'")
        if self.max_age_days is not None and self.max_age_days < 1:
            raise ConfigurationError(f"max_age_days={self.max_age_days} must be at least 1")
        if self.redact is not None and not callable(self.redact):
            raise ConfigurationError(f"redact={self.redact!r} must be a function from text to text")

    def add(self, round: RecordedRound, messages: Messages, now: datetime | None = None) -> None:
        """Write down a round, whole; with the first of a day, old files are removed.

        Args:
            round: What to write.
            messages: The conversation as a rollout has it, in plain form; asked for where text is kept.
            now: When it was committed; default: now.

        Raises:
            OSError: The folder cannot be written.
            Exception: Whatever the redactor raises; nothing is written then.
        """
        now = now or datetime.now(UTC)
        chosen = [each for each in round.rollouts if self.which == "all" or each.index == round.selected]
        lines = [
            msgspec.json.encode(self._record(round, each, messages, now), enc_hook=str).decode() for each in chosen
        ]
        folder = Path(self.folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if append_lines(folder / f"rollouts-{now:%Y-%m-%d}.jsonl", lines):
            self.sweep(now.date())

    def sweep(self, today: date | None = None) -> list[Path]:
        """Remove the files that are too old; also for a timer, as nothing is removed where nothing is recorded.

        Args:
            today: In UTC; default: today.

        Returns:
            What was removed.
        """
        if self.max_age_days is None:
            return []
        first = (today or datetime.now(UTC).date()) - timedelta(days=self.max_age_days)
        old = [path for path in Path(self.folder).iterdir() if (day := _day_of(path)) is not None and day < first]
        for path in old:
            path.unlink(missing_ok=True)  # another process may be at it
        return old

    def _record(self, round: RecordedRound, rollout: Rollout, messages: Messages, now: datetime) -> dict[str, Any]:
        record = rollout_record(round.task, rollout, text=self.text)
        record |= {"time": now.isoformat(timespec="seconds"), "selected": rollout.index == round.selected}
        # The packed output is for a commit: it cannot be redacted, and holds the whole state.
        record["rollout"] |= {"output": None, "forks": {}}
        if self.text:
            record["messages"] = messages(rollout)
        return record if self.redact is None else _redacted(record, rollout, self.redact)


def _redacted(record: dict[str, Any], rollout: Rollout, redact: Redactor) -> dict[str, Any]:
    """The record with every text redacted; numbers of tokens, digests and our own words stay."""
    said = {"messages": record["messages"]} if "messages" in record else {}
    clean = _applied(said, redact)
    tokens = ["" if turn.logprobs is None else turn.logprobs.text.decode(errors="replace") for turn in _turns(rollout)]
    # Arguments may be escaped in what tokens say; in messages, which failed rollouts lack, they are not.
    seen = "messages" in record and rollout.output is not None
    untouched = seen and clean == said and all(redact(text) == text for text in tokens)
    inner = record["rollout"]
    turns = inner["turns"] if untouched else [turn.to_dict() for turn in _turns(rollout)]
    ids = [{**turn, "message_id": redact(turn["message_id"])} for turn in turns]
    error = inner["error"] and redact(inner["error"])
    inner = {**inner, "thread_id": redact(inner["thread_id"]), "turns": ids, "error": error}
    return {**record, **clean, "task": redact(record["task"]), "rollout": inner}


def _turns(rollout: Rollout) -> Sequence[Any]:
    return rollout.trajectory.turns


def _applied(value: Any, redact: Redactor) -> Any:
    """Applied to all strings in it, keys included, and to numbers as they are written."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {_applied(str(key), redact): _applied(each, redact) for key, each in items}
    if isinstance(value, list | tuple):
        return [_applied(each, redact) for each in cast("Sequence[Any]", value)]
    if value is None or isinstance(value, bool):
        return value
    written = str(value)
    clean = redact(written)
    return value if clean == written else clean


def _day_of(path: Path) -> date | None:
    found = _DAY.fullmatch(path.name)
    try:
        return date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None
