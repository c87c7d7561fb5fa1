"""What may be done with an external call, decided from what is on record. Pure: records and a time in, a change out.

A store runs each of these functions as one atomic step on the records of one position. What is safe is decided here and
nowhere else:

- A call that may not be repeated is made by whoever created its record, or was cleared by a person, and by nobody else.
  No clock takes part in that: a lease only tells when waiting for its holder turns into a doubt.
- What came of an attempt counts for that attempt alone, so that a holder who was given up on cannot overwrite what was
  decided since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from entcent_agents.ledger.answer import Answer
from entcent_agents.ledger.calls import ExternalCall
from entcent_agents.ledger.outcome import CHANGED, CRASHED, Done, Failed, GivenUp, InDoubt, Outcome, Pending
from entcent_agents.ledger.record import EffectRecord, State
from entcent_agents.ledger.settings import LedgerSettings
from entcent_agents.ledger.values import StoredValue

T = TypeVar("T")

_OPEN_TO_THE_TRUTH: Final = frozenset({State.INTENT, State.IN_DOUBT, State.CLEARED})
"""States in which what the latest attempt came to is still welcome, however late it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[T]):
    """What a step does to the records of its position: puts one, removes one, or neither.

    Attributes:
        answer: What whoever asked is told.
        put: The record to be written, in the place of the one with its digest.
        remove: The record to be removed.
    """

    answer: T
    put: EffectRecord | None = None
    remove: EffectRecord | None = None


Step = Callable[[Sequence[EffectRecord], float], Change[T]]
"""Records of one position and the store's time, in seconds since 1970, to a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to make a call, once.

    Attributes:
        record: The intent, as it was recorded.
        before: What was on record before it.
    """

    record: EffectRecord
    before: EffectRecord | None


def claim(
    records: Sequence[EffectRecord], now: float, call: ExternalCall, settings: LedgerSettings
) -> Change[Claim | Outcome]:
    """Record the intent to make a call, if it may be made; else say what came of it, or why it may not."""
    own = _at(records, call.digest)
    others = tuple(record for record in records if record.digest != call.digest)
    if own is None:
        new = _new(call, now, settings)
        if not others:
            return _claimed(new, None, now, settings)
        changed = replace(new, state=State.IN_DOUBT, reason=CHANGED)
        return Change(answer=InDoubt(record=changed, arguments=call.arguments, others=others), put=changed)
    if own.state is State.CLEARED:
        return _claimed(replace(own, idempotent=own.idempotent and call.idempotent), own, now, settings)
    if own.state is not State.INTENT:
        return Change(answer=outcome_of(own, call, others))
    if _running(own, now):
        return Change(answer=Pending(retry_after_seconds=own.lease_until - now, reason="the call is being made"))
    if own.idempotent and call.idempotent and own.attempt < settings.max_attempts:
        return _claimed(own, own, now, settings)
    doubtful = replace(own, state=State.IN_DOUBT, reason=own.reason or CRASHED, changed_at=now)
    return Change(answer=InDoubt(record=doubtful, arguments=call.arguments, others=others), put=doubtful)


def renew(records: Sequence[EffectRecord], now: float, claim: Claim, settings: LedgerSettings) -> Change[bool]:
    """Show that the holder of a claim is alive; the answer is whether the lease still runs."""
    held = _held(records, claim)
    if held is None or not _running(held, now):
        return Change(answer=False)
    return Change(answer=True, put=replace(held, lease_until=now + settings.lease_seconds))


def complete(
    records: Sequence[EffectRecord], now: float, claim: Claim, came: StoredValue | str
) -> Change[EffectRecord]:
    """Record what came of an attempt: a value, or the line of an error.

    Returns:
        The record as it now is: another one, where the attempt no longer counts.
    """
    held = _held(records, claim)
    current = _at(records, claim.record.digest)
    if current is not None and (held is None or held.state not in _OPEN_TO_THE_TRUTH):
        return Change(answer=current)
    # A record that somebody removed meanwhile is written again: it did happen.
    known = replace(held or claim.record, lease_until=0.0, reason=None, changed_at=now)
    if isinstance(came, StoredValue):
        known = replace(known, state=State.DONE, result=came)
    else:
        known = replace(known, state=State.FAILED, error=came)
    return Change(answer=known, put=known)


def doubt(records: Sequence[EffectRecord], now: float, claim: Claim, reason: str) -> Change[EffectRecord]:
    """Record that an attempt ended and nobody knows how: in doubt, or free to be repeated where it may be."""
    held = _held(records, claim)
    current = _at(records, claim.record.digest)
    if current is not None and (held is None or held.state is not State.INTENT):
        return Change(answer=current)
    ended = replace(held or claim.record, lease_until=now, reason=reason, changed_at=now)
    if not ended.idempotent:
        ended = replace(ended, state=State.IN_DOUBT)
    return Change(answer=ended, put=ended)


def withdraw(records: Sequence[EffectRecord], now: float, claim: Claim) -> Change[bool]:
    """Take an intent back that nothing was done about; the answer is whether that was possible.

    Once its lease has run out, somebody may have been asked about it. It stays then: an attempt must not be numbered
    like one that a person has an answer ready for.
    """
    held = _held(records, claim)
    if held is None or not _running(held, now):
        return Change(answer=False)
    if claim.before is None:
        return Change(answer=True, remove=held)
    return Change(answer=True, put=replace(claim.before, changed_at=now))


def resolve(
    records: Sequence[EffectRecord], now: float, answer: Answer, settings: LedgerSettings
) -> Change[EffectRecord | None]:
    """Record a person's answer.

    Returns:
        The record that the answer settled or cleared; None where the doubt it is about is gone: it was answered
        before, or the truth came in, or the call has been made again since.
    """
    asked = next((record for record in records if record.doubt_id == answer.doubt_id), None)
    if asked is None or not _doubtful(asked, now):
        return Change(answer=None)
    answered = replace(asked, lease_until=0.0, answered_by=answer.by, reason=answer.reason, changed_at=now)
    match answer.decision:
        case "happened":
            value = StoredValue.of(answer.result, settings.max_result_characters)
            answered = replace(answered, state=State.DONE, result=value)
        case "run":
            answered = replace(answered, state=State.CLEARED)
        case "give up":
            answered = replace(answered, state=State.GIVEN_UP)
    return Change(answer=answered, put=answered)


def outcome_of(
    record: EffectRecord, call: ExternalCall, others: tuple[EffectRecord, ...] = (), *, replayed: bool = True
) -> Outcome:
    """What a record says came of a call."""
    if record.state is State.DONE and record.result is not None:
        return Done(value=record.result.value, replayed=replayed)
    if record.state is State.FAILED:
        return Failed(error=record.error or "", replayed=replayed)
    if record.state is State.GIVEN_UP:
        return GivenUp(reason=record.reason)
    if record.state is State.IN_DOUBT:
        return InDoubt(record=record, arguments=call.arguments, others=others)
    return Pending(retry_after_seconds=0.0, reason=record.reason or "the call may be made")


def _new(call: ExternalCall, now: float, settings: LedgerSettings) -> EffectRecord:
    return EffectRecord(
        position=call.position,
        digest=call.digest,
        request=call.request,
        tool=call.tool,
        idempotent=call.idempotent,
        idempotency_key=call.idempotency_key,
        state=State.INTENT,
        attempt=0,
        arguments=call.canonical if settings.keep_arguments else None,
        created_at=now,
        changed_at=now,
    )


def _claimed(
    record: EffectRecord, before: EffectRecord | None, now: float, settings: LedgerSettings
) -> Change[Claim | Outcome]:
    intent = replace(
        record,
        state=State.INTENT,
        attempt=record.attempt + 1,
        lease_until=now + settings.lease_seconds,
        reason=None,
        changed_at=now,
    )
    return Change(answer=Claim(record=intent, before=before), put=intent)


def _at(records: Sequence[EffectRecord], digest: str) -> EffectRecord | None:
    return next((record for record in records if record.digest == digest), None)


def _held(records: Sequence[EffectRecord], claim: Claim) -> EffectRecord | None:
    """The record of a claim, where the claim's attempt still is the latest."""
    current = _at(records, claim.record.digest)
    return current if current is not None and current.attempt == claim.record.attempt else None


def _running(record: EffectRecord, now: float) -> bool:
    """Whether somebody makes the call, as far as anybody can tell. A lease that has run out stays so."""
    return record.state is State.INTENT and now < record.lease_until


def _doubtful(record: EffectRecord, now: float) -> bool:
    """Whether a person may decide: the doubt is on record, or nobody has come by yet to record it."""
    return record.state is State.IN_DOUBT or (record.state is State.INTENT and not _running(record, now))
