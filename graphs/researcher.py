"""A researcher: plans what to find out, looks each of it up in a library of documents, and answers with its sources."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Literal, cast

from langchain import agents
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from langgraph_sdk.runtime import ServerRuntime
from pydantic import Field

from entcent_agents.environments import SqliteEnvironment
from graphs.serving import Agent, Settings, served
from tools.documents import ENVIRONMENT, document_tools

PLAN: Final = """\
You plan research in a library of documents. Think aloud in a sentence or two. Then write at most {steps} questions to
look up, each on a line of its own that begins with its number. Write nothing after them."""
WORK: Final = """\
You do research in a library of documents with tools. Before every call write a sentence: what you know now, and what
you look for next. Search with few words, and read the parts that fit before you trust them. Answer each step in a few
sentences without a call, and name the document and the part behind every statement, as [document, part 1].
What the documents do not say, say that they do not."""
ANSWER: Final = "Now answer what was asked, from what was found, and name the sources. It was:"


class ResearcherSettings(Settings):
    """What a request to the researcher may set."""

    steps: int = Field(default=3, ge=1, le=8, description="Most steps of a plan.")
    approve_plan: bool = Field(default=False, description="Whether a person is shown the plan, and may change it.")


class Research(MessagesState):
    """The conversation, and the steps that are still to be done."""

    steps: list[str]


def make_graph(runtime: ServerRuntime[ResearcherSettings]) -> AbstractAsyncContextManager[Agent]:
    """The application, on the library `ENTCENT_DOCUMENTS` (python -m tools.documents)."""

    def make(model: BaseChatModel, names: Collection[str], settings: ResearcherSettings) -> Agent:
        return make_agent(model, names, steps=settings.steps)

    return served(
        runtime, ResearcherSettings, make, {"ENTCENT_DOCUMENTS": partial(SqliteEnvironment, name=ENVIRONMENT)}
    )


def make_agent(model: BaseChatModel, environments: Collection[str] = (ENVIRONMENT,), *, steps: int = 3) -> Agent:
    """The agent; `documents` must be among the environments when it runs, and its plans have so many steps at most."""

    def prompt(state: Research) -> list[Any]:
        return [SystemMessage(PLAN.format(steps=steps)), *state["messages"]]

    def planned(said: AIMessage) -> dict[str, Any]:
        found = re.findall(r"^\s*\d+[.):]\s*(.+)$", str(said.text), re.MULTILINE)[:steps]
        return {"messages": [said], "steps": [*found, ANSWER]}

    def begin(state: Research) -> dict[str, Any]:
        step, *rest = state["steps"]
        if step == ANSWER:
            asked = [
                message.text for message in state["messages"] if message.type == "human" and message.name != "plan"
            ]
            step = f"{ANSWER}\n\n{asked[-1]}"
        return {"messages": [HumanMessage(step, name="plan")], "steps": rest}

    builder = StateGraph(Research, context_schema=ResearcherSettings)
    builder.add_node("plan", RunnableLambda(prompt) | model | RunnableLambda(planned))
    builder.add_node("approve", _approve)
    builder.add_node("begin", begin)
    work: Agent = agents.create_agent(model, document_tools(), system_prompt=WORK, name="work")
    builder.add_node("work", work)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "approve")
    builder.add_edge("approve", "begin")
    builder.add_edge("begin", "work")
    builder.add_conditional_edges("work", _after_work)
    return builder.compile(name="researcher")


def _approve(state: Research, runtime: Runtime[ResearcherSettings]) -> dict[str, Any]:
    """Show a person the plan, where the request says so; a list of steps as the answer takes its place."""
    if not (runtime.context and runtime.context.approve_plan):
        return {}
    answer: object = interrupt({"plan": state["steps"][:-1]})
    return {"steps": [*cast("list[str]", answer), ANSWER]} if isinstance(answer, list) else {}


def _after_work(state: Research) -> Literal["begin", "__end__"]:
    return "begin" if state["steps"] else "__end__"
