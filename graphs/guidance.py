"""What the analyst says to its model between the turns, each once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

PROMPT: Final = """\
You are a careful data analyst who works step by step with tools, one call in each turn.
Before every call write one or two sentences: what you know now, and what you do next and why.
Look at the values first, with every condition that the task names. To store a result in a new table, use one
statement: CREATE TABLE name AS SELECT ... Then read what you stored, and answer in one sentence, without a call."""

PLAN: Final = "Write a plan of three short steps, and then make the first call."
STORE: Final = "Nothing is stored yet. Say what has to be stored, and then write the JSON block that stores it."
CHECK: Final = "Now write the JSON block of a call that reads what you stored, to check it."
ANSWER: Final = "There is no time for another call: answer now, in one sentence."

LOOK: Final = "look_"
"""How the ids of the calls begin that the agent makes by itself."""


def guidance(messages: Sequence[BaseMessage], writing: Collection[str]) -> str:
    """What comes next, in words for the model; empty where an answer may stand.

    Args:
        messages: The conversation so far.
        writing: Names of the tools that store something.
    """
    messages = asked(messages)
    said, last = guided(messages), messages[-1]
    if not said:
        return PLAN
    if isinstance(last, ToolMessage):
        return ANSWER
    if isinstance(last, AIMessage) and last.invalid_tool_calls:
        return f"The call could not be read: {last.invalid_tool_calls[0]['error']}. Write it again."
    own = [
        call["name"] in writing
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
        if not str(call["id"]).startswith(LOOK)
    ]
    if not any(own):
        return "" if STORE in said else STORE
    return CHECK if own[-1] and CHECK not in said else ""


def asked(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """The messages since the last question of the user: a conversation may have several."""
    questions = [i for i, message in enumerate(messages) if message.type == "human" and message.name != "guide"]
    return messages[questions[-1] :] if questions else messages


def guided(messages: Sequence[BaseMessage]) -> list[str]:
    """The guidance given since the last question."""
    return [str(message.text) for message in asked(messages) if message.name == "guide"]


def turns(messages: Sequence[BaseMessage]) -> int:
    """Turns of the model since the last question; the first look is the agent's own."""
    return sum(isinstance(message, AIMessage) for message in asked(messages)) - 1
