"""What a chat server can do, measured: once a process for each server, or anew for `entcent doctor`.

    capabilities = await capabilities_of(model)
    if capabilities["n"].value: ...

Servers differ in what they take, what they silently leave out, and what their log-probabilities are of; names and
versions say little of it. So each capability is a small experiment on the model's own request path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final

from entcent_agents.chat.clients import shown
from entcent_agents.chat.digests import digest
from entcent_agents.chat.learnt import memory
from entcent_agents.chat.loops import of_loop
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.probes import bounds, continuing, coverage, sampling
from entcent_agents.chat.probes.asking import Asking, Cost, is_refusal
from entcent_agents.chat.probes.measured import Constraint, Measured, Seeding, Semantics, not_measured
from entcent_agents.errors import ConfigurationError, LogprobsError, LogprobsMissingError, ModelServerError

__all__ = [
    "PROBES",
    "Capabilities",
    "Constraint",
    "Cost",
    "Measured",
    "Seeding",
    "Semantics",
    "capabilities_of",
    "measure_capabilities",
]

RECORD_VERSION: Final = 1

Probe = Callable[[Asking], Awaitable[Measured]]

PROBES: Final[Mapping[str, Probe]] = MappingProxyType(
    {
        "top_logprobs": bounds.top_logprobs,  # first: the others ask for as many alternatives as it found
        "n": bounds.choices,
        "text": coverage.text,
        "streaming": coverage.streaming,
        "other_scripts": coverage.other_scripts,
        "native_tools": coverage.native_tools,
        "text_tools": coverage.text_tools,
        "streamed_tools": coverage.streamed_tools,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "json_schema": sampling.json_schema,
        "continuation": continuing.continuation,
    }
)
"""Every capability and how it is measured, in this order. A further one is a line here and nothing else: a probe gives
its value, what it means and its figures as one `Measured`, asks by `Asking.answer` or adds what it spent otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What was measured of one model on one server.

    Attributes:
        base_url: The address, without what may be secret in it.
        model: The model's name, as it was asked for.
        served_model: Its name, as the server's answers say.
        owner: Who made it, as the server's list of models says; None where it does not.
        measured: Each of `PROBES`, by name.
        cost: What the measurement took.
    """

    base_url: str
    model: str
    served_model: str
    owner: str | None
    measured: Mapping[str, Measured]
    cost: Cost = field(default_factory=Cost)

    def __getitem__(self, name: str) -> Measured:
        return self.measured[name]

    def recommended(self, top_logprobs: int = 10) -> dict[str, Any]:
        """Settings of `ChatLogprobs` that follow from it.

        Tools are native only where calls are scored, made unasked, and forced when `tool_choice` says so: a server that
        ignores it merely prompts, which text does on any server. Rollouts share no request whose choices are copies, or
        not all have log-probabilities.

        Args:
            top_logprobs: How many alternatives are wanted, where the server gives so many.
        """
        native, most = self.measured["native_tools"], self.measured["top_logprobs"].value
        usable = native.details.get("called_by_itself") and native.details["forcing"] == "honoured"
        settings: dict[str, Any] = {
            "tool_calling": "native" if usable and native.details["covered"] else "text",
            "top_logprobs": min(top_logprobs, most) if isinstance(most, int) else top_logprobs,
        }
        choices = self.measured["n"].details
        if choices.get("different") == 1 or choices.get("with_logprobs") != choices.get("asked"):
            settings["coalesce"] = False
        return settings

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        return {
            "version": RECORD_VERSION,
            "base_url": self.base_url,
            "model": self.model,
            "served_model": self.served_model,
            "owner": self.owner,
            "measured": {name: asdict(measured) for name, measured in self.measured.items()},
            "cost": asdict(self.cost),
        }


async def measure_capabilities(
    model: ChatLogprobs, on_progress: Callable[[str], None] = lambda name: None
) -> Capabilities:
    """Measure every capability, one after the other; what cannot be measured is said and ends nothing else.

    Args:
        model: The address, the key and the model; its sampling settings do not matter.
        on_progress: Called with the name of each probe before it runs.

    Raises:
        ModelServerError: Where the server cannot be reached, or does not answer the simplest question.
        LogprobsMissingError: Where it gives no log-probabilities.
        LogprobsMalformedError: Where it gives such as cannot be.
        ConfigurationError: On settings of the model that cannot work.
    """
    asking = Asking(model)
    on_progress("server")
    served_model = await _require_logprobs(asking)
    owner = await _owner(asking, model.model)
    measured: dict[str, Measured] = {}
    for name, probe in PROBES.items():
        on_progress(name)
        measured[name] = await _guarded(asking, probe)
    return Capabilities(
        base_url=shown(model.base_url),
        model=model.model,
        served_model=served_model,
        owner=owner,
        measured=MappingProxyType(measured),
        cost=asking.cost,
    )


async def capabilities_of(model: ChatLogprobs) -> Capabilities:
    """What the model's server can do; measured at the first call in a process, which others wait for.

    Raises:
        EntcentError: As `measure_capabilities`; the next call then measures again.
    """
    key = _key(model)
    if key in _known:
        return _known[key]
    under_way = of_loop(_UnderWay, _UnderWay)
    shared = under_way.get(key)
    if shared is None:
        shared = under_way[key] = _Shared(asyncio.create_task(_remember(key, model)))
    shared.waiters += 1
    try:
        return await asyncio.shield(shared.task)
    finally:
        shared.waiters -= 1
        if not shared.waiters and not shared.task.get_loop().is_closed():  # abandoned: collected with its loop
            shared.task.cancel()  # does nothing to one that is done
            if under_way.get(key) is shared:
                del under_way[key]


@dataclass(slots=True)
class _Shared:
    """A measurement under way, and how many wait for it."""

    task: asyncio.Task[Capabilities]
    waiters: int = 0


class _UnderWay(dict[str, _Shared]):
    """The measurements under way on one loop."""


_known: Final[dict[str, Capabilities]] = memory()


async def _remember(key: str, model: ChatLogprobs) -> Capabilities:
    _known[key] = await measure_capabilities(model)
    return _known[key]


def _key(model: ChatLogprobs) -> str:
    """A digest, so that no key is kept; extra fields of the body may change what a server does."""
    api_key = model.api_key.get_secret_value() if model.api_key else ""
    return digest((model.base_url, model.model, api_key, model.extra_body))


async def _require_logprobs(asking: Asking) -> str:
    """The model's name, as the server says; asked with two alternatives: the least that entropy needs.

    Raises:
        ModelServerError: Where the server answers nothing at all.
        LogprobsMissingError: Where it answers without log-probabilities, or only without being asked for them.
    """
    payload = asking.payload("Hi", max_tokens=1)
    try:
        completion = (await asking.answer(payload)).choices[0]
    except ModelServerError as error:
        if not is_refusal(error):
            raise
        refused = error
    else:
        if completion.logprobs is None or not completion.logprobs.scored_tokens:
            await asking.model().acheck()  # says what to do, unless it was a mishap
        return completion.model
    plain = {name: value for name, value in payload.items() if name not in ("logprobs", "top_logprobs")}
    try:
        await asking.answer(plain)
    except ModelServerError:
        raise refused from None
    raise LogprobsMissingError(f"the server answers, and refuses to give log-probabilities: {refused}")


async def _owner(asking: Asking, name: str) -> str | None:
    try:
        listed = await asking.models()
    except ModelServerError:
        return None  # not every server has a list
    return next((model.owned_by for model in listed if model.id == name), None)


async def _guarded(asking: Asking, probe: Probe) -> Measured:
    """A probe that fails, or that the user's settings rule out, is data, unless nothing answers any more."""
    try:
        return await probe(asking)
    except (ModelServerError, LogprobsError, ConfigurationError) as error:
        if isinstance(error, ModelServerError) and error.status is None:
            await asking.answer(asking.payload("Hi", max_tokens=1))
        return not_measured(error)
