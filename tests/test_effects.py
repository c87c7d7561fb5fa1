"""Whose word on a tool's effect counts, which hints are believed, and every refusal by its whole message."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import langgraph_supervisor
import langgraph_swarm
import pytest
from langchain.agents.middleware import TodoListMiddleware
from langchain_core.tools import BaseTool, tool
from langgraph_supervisor.handoff import create_forward_message_tool

from entcent_agents.effects import (
    EXTERNAL,
    EXTERNAL_IDEMPOTENT,
    READ,
    WRITE,
    Effect,
    ToolEffect,
    committing_selector_needed,
    declare,
    durable_store_needed,
    effects_of,
)
from entcent_agents.errors import EffectError

MCP_SERVER = Path(__file__).with_name("mcp_server.py")


def flat(read_only: bool | None = None, **more: Any) -> dict[str, Any]:
    """Metadata as langchain-mcp-adapters 0.3.2 makes it: every hint is there, those of the server's own making too."""
    hints = ("title", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    return dict.fromkeys(hints) | {"readOnlyHint": read_only} | more


def nested(server: str | None = None, **annotations: Any) -> dict[str, Any]:
    """Metadata as `langchain.mcp` of langchain 1.4.7 makes it: what is None is left out."""
    named = {"server": {"name": server, "version": "1"}} if server else {}
    return {"mcp": {"tool": {"annotations": annotations}, **named}}


def named(name: str, metadata: dict[str, Any] | None = None) -> BaseTool:
    @tool
    def made() -> str:
        """Do something."""
        return "done"

    return made.model_copy(update={"name": name, "metadata": metadata})


def of(
    metadata: dict[str, Any] | None = None,
    declared: Effect | str | None = None,
    environments: tuple[str, ...] = (),
    **trust: Any,
) -> ToolEffect:
    """What is known of a tool `t`."""
    said = {} if declared is None else {"t": declared}
    return effects_of([named("t", metadata)], said, environments, **trust)["t"]


def refusal(*args: Any, **settings: Any) -> str:
    with pytest.raises(EffectError) as refused:
        effects_of(*args, **settings)
    return str(refused.value)


# Whose word counts.


def test_a_tool_of_which_nobody_says_anything_is_external():
    assert of() == ToolEffect(
        tool="t", effect=EXTERNAL, idempotent=False, environment=None, shareable=False, source="unknown"
    )


@pytest.mark.parametrize("effect", Effect)
def test_the_users_word_counts_more_than_metadata_and_trusted_hints(effect: Effect):
    for metadata in ({"effect": "READ"}, {"effect": EXTERNAL, "idempotent": True}, flat(True)):
        known = of(metadata, str(effect), ("world",), trust_hints=True)
        assert known.source == "declared"
        assert known.effect is (EXTERNAL if effect is EXTERNAL_IDEMPOTENT else effect)
        assert known.idempotent is (effect is EXTERNAL_IDEMPOTENT)
        assert of(metadata, str(effect), ("world",)).distrusted_hint is False


@pytest.mark.parametrize(
    ("metadata", "effect", "idempotent"),
    [
        ({"effect": "READ"}, READ, False),
        ({"effect": READ, "idempotent": True}, READ, False),
        ({"effect": "WRITE", "environment": "world"}, WRITE, False),
        ({"effect": "EXTERNAL"}, EXTERNAL, False),
        ({"effect": "EXTERNAL_IDEMPOTENT"}, EXTERNAL, True),
        ({"effect": EXTERNAL, "idempotent": True}, EXTERNAL, True),
        ({"idempotent": True}, EXTERNAL, True),
    ],
)
def test_metadata_counts_where_the_user_says_nothing(metadata: dict[str, Any], effect: Effect, idempotent: bool):
    known = of(metadata, environments=("world",))
    assert (known.effect, known.idempotent, known.source) == (effect, idempotent, "metadata")
    assert known.environment == metadata.get("environment")


def test_metadata_that_speaks_of_other_things_says_nothing():
    for mcp in ("v2", {"tool": ["a"]}, {"server": {"name": ["a"]}}):
        assert of({"effect": None, "idempotent": "yes", "mcp": mcp, "owner": "us"}, trust_hints=True) == of()


def test_the_tools_of_a_graph_that_shows_none_are_those_that_are_declared():
    assert effects_of([], {"look": "READ"}, [], trust_hints=["anything"])["look"].effect is READ


# What may be shared.


@pytest.mark.parametrize(
    ("metadata", "environments", "shareable"),
    [
        ({"effect": READ}, (), True),
        ({"effect": READ}, ("world",), False),  # it may act on that environment without saying so
        ({"effect": READ, "environment": None}, ("world",), True),
        ({"effect": READ, "environment": "world"}, ("world",), False),
        ({"effect": WRITE}, ("world",), False),
        ({"effect": EXTERNAL}, (), False),
    ],
)
def test_only_reads_that_are_bound_to_no_environment_may_be_shared(
    metadata: dict[str, Any], environments: tuple[str, ...], shareable: bool
):
    assert of(metadata, environments=environments).shareable is shareable


# Hints of MCP servers.

HINTS_THAT_IT_READS = [flat(True), nested(read_only_hint=True), nested("shop", readOnlyHint=True)]


@pytest.mark.parametrize("metadata", HINTS_THAT_IT_READS)
def test_a_hint_counts_for_nothing_until_it_is_trusted(metadata: dict[str, Any]):
    for trust in ((), False):
        assert of(metadata, trust_hints=trust) == replace(of(), distrusted_hint=True)
    for trust in (True, "t", ["t"], {"t"}):
        known = of(metadata, trust_hints=trust)
        assert (known.effect, known.source, known.shareable, known.distrusted_hint) == (READ, "hint", True, False)


@pytest.mark.parametrize("metadata", [flat(), nested("shop"), nested(read_only_hint="true"), flat(1)])
def test_a_trusted_server_that_does_not_say_that_a_tool_reads_leaves_it_unknown(metadata: dict[str, Any]):
    assert of(metadata, trust_hints=True) == of()


@pytest.mark.parametrize(
    "hints", [flat(False, idempotentHint=True), nested(read_only_hint=False, idempotent_hint=True)]
)
def test_a_trusted_hint_about_equal_arguments_does_not_make_a_tool_idempotent(hints: dict[str, Any]):
    known = of(hints, trust_hints=True)
    assert (known.effect, known.idempotent, known.source) == (EXTERNAL, False, "hint")


def test_a_server_is_trusted_by_name_and_its_neighbour_is_not():
    tools = [named("look", nested("shop", read_only_hint=True)), named("peek", nested("other", read_only_hint=True))]
    known = effects_of(tools, {}, [], trust_hints=["shop"])
    assert [known[name].effect for name in ("look", "peek")] == [READ, EXTERNAL]


def test_what_a_server_writes_where_authors_write_counts_for_nothing():
    claims = nested("shop", read_only_hint=True)
    sly = flat(environment=None, idempotent=True, **claims)
    assert of(sly, trust_hints=True) == of()
    assert of(sly, READ, ("world",)).shareable is False
    assert of(flat(environment="nowhere"), READ).environment is None


def test_a_server_that_calls_itself_by_the_name_of_a_trusted_one_where_adapters_copy_what_it_says_is_not_believed():
    claims = nested("shop", read_only_hint=True)
    tools = [named("t", flat(True, **claims)), named("look", claims)]
    assert effects_of(tools, {}, [], trust_hints=["shop"])["t"].effect is EXTERNAL


def test_an_effect_that_a_server_may_have_written_is_refused_unless_the_user_speaks():
    assert refusal([named("t", flat(effect="READ"))], {}, [], trust_hints=True) == (
        "the metadata of tool 't' holds the hints of an MCP server and the effect 'READ', which the server may have "
        "written: say it yourself, effects={'t': …} or declare(tool, …)"
    )
    assert of(flat(effect="READ"), "EXTERNAL").effect is EXTERNAL


# Declared on the tool.


def test_a_tool_is_declared_on_a_copy():
    bare = named("t", {"owner": "us", "idempotent": True})
    told = declare(bare, WRITE, environment="world")
    assert bare.metadata == {"owner": "us", "idempotent": True}
    assert told.metadata == {"owner": "us", "effect": WRITE, "environment": "world"}
    assert type(told) is type(bare) and told.invoke({}) == "done"
    assert json.loads(json.dumps(told.metadata))["effect"] == "WRITE"


def test_a_declaration_without_an_environment_forgets_the_one_before():
    told = declare(declare(named("t"), WRITE, environment="world"), READ)
    assert effects_of([told], {}, ["other"])["t"].environment is None
    assert effects_of([told], {}, ["other"])["t"].shareable is False
    assert effects_of([declare(told, READ, environment=None)], {}, ["other"])["t"].shareable is True


def test_a_tool_of_an_mcp_server_can_be_declared():
    told = declare(named("t", flat(False, effect="WRITE", environment="nowhere")), "EXTERNAL_IDEMPOTENT")
    assert effects_of([told], {}, [])["t"].idempotent is True
    assert effects_of([told], {}, [])["t"].source == "metadata"


# Refusals.


def test_a_declaration_for_a_tool_that_is_not_there_is_refused_with_the_name_that_was_meant():
    tools = [named("look"), named("save")]
    there = "that the agent does not have; it has look, save"
    assert refusal(tools, {"lok": READ}, []) == f"effects name a tool 'lok' {there}: did you mean 'look'?"
    assert refusal(tools, {"pay": READ}, []) == f"effects name a tool 'pay' {there}"


@pytest.mark.parametrize("said", ["read", "", None, ["READ"]])
def test_what_is_no_effect_is_refused_wherever_it_is_said(said: Any):
    whole = (
        f"tool 't' declares the effect {said!r}; it must be READ, WRITE or EXTERNAL, "
        "or EXTERNAL_IDEMPOTENT if a second call with the same idempotency key does nothing"
    )
    assert refusal([named("t")], {"t": said}, []) == whole
    if said is not None:  # as good as absent
        assert refusal([named("t", {"effect": said})], {}, []) == whole
    with pytest.raises(EffectError) as refused:
        declare(named("t"), said)
    assert str(refused.value) == whole


def test_a_write_without_an_environment_is_refused():
    assert refusal([named("t")], {"t": WRITE}, []) == (
        "tool 't' is declared WRITE, but there is no environment to fork: "
        "pass environments=[SqliteEnvironment(…)] or another to ParallelRollouts"
    )


@pytest.mark.parametrize(("environments", "there"), [([], "none at all"), (["a", "b"], "a, b")])
def test_a_tool_whose_environment_is_missing_is_refused_whatever_it_does(environments: list[str], there: str):
    for effect in Effect:
        assert refusal([named("t", {"effect": effect, "environment": "world"})], {}, environments) == (
            f"tool 't' acts on the environment 'world', and there is none of that name ({there}): "
            "pass environments=[…] to ParallelRollouts"
        )


def test_two_tools_of_one_name_that_do_different_things_are_refused():
    same = "two tools are named 't', and what they do differs"
    cure = "rename one, or say the same of both with declare(tool, …)"
    assert refusal([named("t"), named("t", {"effect": READ})], {}, []) == (
        f"{same} (EXTERNAL, unknown; READ, shareable, metadata): {cure}"
    )
    assert refusal([named("t"), named("t", {"environment": "world"})], {"t": WRITE}, ["world"]) == (
        f"{same} (WRITE, declared; WRITE on 'world', declared): {cure}"
    )
    assert refusal([named("t", {"effect": EXTERNAL}), named("t", {"effect": EXTERNAL_IDEMPOTENT})], {}, []) == (
        f"{same} (EXTERNAL, metadata; EXTERNAL_IDEMPOTENT, metadata): {cure}"
    )


def test_two_tools_of_one_name_that_do_the_same_are_one_whoever_says_so():
    assert effects_of([named("t", {"effect": READ}), named("t", flat(True))], {}, [], trust_hints=True).keys() == {"t"}
    assert effects_of([named("t"), named("t", {"effect": READ})], {"t": WRITE}, ["world"])["t"].effect is WRITE


def test_trust_in_a_name_that_nobody_has_is_refused():
    tools = [named("look", nested("shop", read_only_hint=True)), named("save")]
    assert refusal(tools, {}, [], trust_hints=["shopp"]) == (
        "trust_hints name 'shopp', which is neither a tool of the agent (look, save) nor an MCP server that one of "
        "them names (shop): did you mean 'shop'?"
    )
    assert refusal([named("look", flat(True))], {}, [], trust_hints="bank") == (
        "trust_hints name 'bank', which is neither a tool of the agent (look) nor an MCP server that one of them names "
        "(they name none)"
    )


# What EXTERNAL tools and environments ask of a graph.

SELECTOR = (
    "need a selector that commits one rollout and discards the others: "
    "add EntropyCentroidSelector(rollouts) after this node"
)
HINTED = (
    "; the MCP server of look hints that it only reads, which counts for nothing until you trust it, "
    "trust_hints=['look'], or say so yourself, effects={'look': READ}"
)
SILENT = "; nobody says what peek, send does: if it changes nothing, declare effects={'peek': READ, 'send': READ}"


def test_without_external_tools_and_environments_nothing_is_needed():
    effects = effects_of([named("look")], {"look": READ}, [])
    assert committing_selector_needed(effects, []) is None
    assert durable_store_needed(effects, "ledger") is None


def test_external_tools_or_environments_need_a_committing_selector():
    effects = effects_of([named("pay"), named("look")], {"pay": EXTERNAL_IDEMPOTENT, "look": READ}, [])
    assert committing_selector_needed(effects, []) == f"rollouts with EXTERNAL tools (pay) {SELECTOR}"
    assert committing_selector_needed({}, ["world"]) == f"rollouts with environments {SELECTOR}"
    both = committing_selector_needed(effects, ["world"])
    assert both == f"rollouts with EXTERNAL tools (pay) and environments {SELECTOR}"


def test_the_refusal_says_what_to_write_for_tools_that_only_read():
    tools = [named("pay", {"effect": EXTERNAL}), named("look", flat(True)), named("peek"), named("send", flat())]
    external = "rollouts with EXTERNAL tools (pay, look, peek, send)"
    assert committing_selector_needed(effects_of(tools, {}, []), []) == f"{external} {SELECTOR}{SILENT}{HINTED}"
    cured = effects_of(tools, {"peek": READ, "send": READ}, [], trust_hints=["look"])
    assert committing_selector_needed(cured, []) == f"rollouts with EXTERNAL tools (pay) {SELECTOR}"


@pytest.mark.parametrize(
    ("what", "argument"),
    [
        ("rollout_checkpointer", "rollout_checkpointer=AsyncSqliteSaver(…) or AsyncPostgresSaver(…)"),
        ("ledger", "ledger=SqliteLedger(…) or PostgresLedger(…)"),
    ],
)
def test_under_a_durable_parent_the_refusal_says_which_argument_to_pass(what: Any, argument: str):
    effects = effects_of([named("pay"), named("look", nested(read_only_hint=True))], {"pay": EXTERNAL}, [])
    assert durable_store_needed(effects, what) == (
        "rollouts with EXTERNAL tools (pay, look) in a graph whose own checkpointer outlives the process need a "
        f"{what} that does too, or nobody knows after a crash which calls were made: "
        f"pass {argument} to ParallelRollouts{HINTED}"
    )


# Real servers, through both adapters. They need different releases of `mcp`; the extra `mcp` has the first, and the
# other is installed in its place to run its test.


def require_believed_as_said(tools: list[BaseTool], trust: Any) -> None:
    """What comes of the four tools of `mcp_server.py`."""
    distrusted = effects_of(tools, {}, [])
    assert {name: effect.effect for name, effect in distrusted.items()} == dict.fromkeys(distrusted, EXTERNAL)
    assert [name for name, effect in distrusted.items() if effect.distrusted_hint] == ["look"]
    trusted = effects_of(tools, {}, [], trust_hints=trust)
    assert {name: (effect.effect, effect.source) for name, effect in trusted.items() if name != "sly"} == {
        "look": (READ, "hint"),
        "send": (EXTERNAL, "hint"),
        "silent": (EXTERNAL, "unknown"),
    }
    assert not any(effect.idempotent for effect in trusted.values())


async def test_hints_of_a_real_server_through_langchain_mcp_adapters():
    client = pytest.importorskip("langchain_mcp_adapters.client")
    command = {"transport": "stdio", "command": sys.executable, "args": [str(MCP_SERVER), "shop"]}
    tools = await client.MultiServerMCPClient({"shop": command}).get_tools()
    honest = [tool for tool in tools if tool.name != "sly"]
    require_believed_as_said(honest, ["look", "send", "silent"])
    assert refusal(tools, {}, []).startswith("the metadata of tool 'sly' holds the hints of an MCP server")
    known = effects_of([*honest, declare(tools[-1], EXTERNAL_IDEMPOTENT)], {}, [])
    assert known["sly"].idempotent and known["sly"].source == "metadata"
    assert (await tools[0].ainvoke({}))[0]["text"] == "look was called"


async def test_hints_of_a_real_server_through_langchain_mcp():
    pytest.importorskip("fastmcp", reason="pip install 'langchain[mcp]'")
    from fastmcp.client.transports import StdioTransport
    from langchain_core._api import suppress_langchain_beta_warning

    with suppress_langchain_beta_warning():
        from langchain.mcp import MCPAdapter

    async with MCPAdapter(StdioTransport(sys.executable, [str(MCP_SERVER), "shop"])) as adapter:
        tools = await adapter.list_tools()
        require_believed_as_said(tools, ["shop"])
        assert effects_of(tools, {}, [], trust_hints=True)["sly"] == replace(of(), tool="sly")
        assert (await tools[0].ainvoke({}))[0]["text"] == "look was called"


def test_a_handoff_is_known_by_its_code_and_one_by_the_same_name_is_not():
    ours = langgraph_swarm.create_handoff_tool(agent_name="bob")

    @tool
    def transfer_to_bob() -> str:
        """Transfer the money to Bob."""
        return "done"

    assert effects_of([ours], {}, [])["transfer_to_bob"].effect is READ
    assert effects_of([ours], {}, [])["transfer_to_bob"].source == "known"
    assert effects_of([transfer_to_bob], {}, [])["transfer_to_bob"].source == "unknown"
    assert effects_of([ours], {"transfer_to_bob": EXTERNAL}, [])["transfer_to_bob"].effect is EXTERNAL
    transfer_to_bob.metadata = {**ours.metadata}
    assert effects_of([transfer_to_bob], {}, [])["transfer_to_bob"].effect is EXTERNAL


def test_tools_that_keep_to_the_state_are_known_as_the_packages_are_now():
    tools = [
        langgraph_supervisor.create_handoff_tool(agent_name="adder"),
        create_forward_message_tool(),
        *TodoListMiddleware().tools,
    ]
    found = effects_of(tools, {}, [])
    assert {name: effect.effect for name, effect in found.items()} == dict.fromkeys(
        ["transfer_to_adder", "forward_message", "write_todos"], READ
    )


def test_what_wraps_a_known_function_or_runs_another_beside_it_is_not_known():
    ours = langgraph_swarm.create_handoff_tool(agent_name="bob")

    @functools.wraps(ours.func)
    def audited(*args: Any, **kwargs: Any) -> Any:
        return ours.func(*args, **kwargs)

    async def another() -> str:
        return "done"

    wrapped = ours.model_copy(update={"func": audited})
    beside = ours.model_copy(update={"coroutine": another})
    assert [effects_of([each], {}, [])["transfer_to_bob"].effect for each in (wrapped, beside)] == [EXTERNAL] * 2
