"""Which of the generated tokens a server gives log-probabilities for: text, other scripts, tool calls, streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from entcent_agents.chat.completion import Completion
from entcent_agents.chat.probes.asking import Answer, Asking, is_refusal
from entcent_agents.chat.probes.measured import Measured, not_measured
from entcent_agents.chat.text_tools import read_calls
from entcent_agents.errors import ModelServerError
from entcent_agents.selection.validity import MIN_COVERAGE

LONG: Final = (
    "Count from one to one hundred in words.",
    "Write a long letter to a friend about a journey by sea.",
    "Explain in detail how bread is made.",
)
"""Asked in this order until an answer is long: weak models may end after a word."""
TEXT_TOKENS: Final = 32
ENOUGH_TOKENS: Final = 24
CALL_TOKENS: Final = 64
END_TOKENS: Final = 4
"""At most so many end a turn: the end-of-turn token, or a stop sequence."""
OTHER_SCRIPTS: Final = (
    "Write only emojis, no letters: 🦄 🦜 🪐 🥑",
    "Repeat this line: 日本語 🦄 Привет, мир! 你好",
    "用中文说一句话",
)
"""Tried in this order until the model writes characters of several bytes."""
RUN_QUERY: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "run_query",
        "description": "Run an SQL query on the database and get its rows.",
        "parameters": {"type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]},
    },
}
ASK_ROWS: Final = "How many rows has the table penguins? Run a query to find out."
"""Weak models make up the weather, and what a file says; a number of rows they look for."""
GREET: Final = "Say hello."
"""Nobody queries a database for this: a call says that it was forced."""


async def text(asking: Asking) -> Measured:
    """Coverage of plain text, in one piece."""
    answer = await _long_answer(asking, stream=False)
    return _measured(answer, _floor_words(answer, "plain text counts in full", "scores of this server are doubtful"))


async def streaming(asking: Asking) -> Measured:
    """Coverage of plain text that is streamed, and whether it comes piece by piece."""
    answer = await _long_answer(asking, stream=True)
    flows = "tokens are seen as they come" if answer.pieces > 1 else "but all at once, so live views show nothing"
    lost = "log-probabilities are lost in streams, in which ChatLogprobs asks"
    return _measured(answer, _floor_words(answer, flows, lost), {"pieces": answer.pieces})


async def other_scripts(asking: Asking) -> Measured:
    """Coverage of text whose characters take several bytes: some servers skip tokens that end inside one."""
    for says in OTHER_SCRIPTS:
        answer = await asking.answer(asking.payload(says, max_tokens=TEXT_TOKENS, temperature=0.0, stream=False))
        wrote = answer.choices[0].reasoning + answer.choices[0].text
        characters = sum(character > "\x7f" for character in wrote)
        if characters:
            means = "such text counts in full"
            if _scored(answer.choices[0]) + 1 < MIN_COVERAGE * answer.choices[0].generated_tokens:  # 1: end of turn
                means = f"below the floor of {MIN_COVERAGE}: some tokens of such characters are missing"
            return _measured(answer, means, {"characters_beyond_ascii": characters})
    return not_measured("the model wrote no character of several bytes when asked to")


async def native_tools(asking: Asking) -> Measured:
    """Coverage of native tool calls: one left to the model, and one that is forced where the server can force it."""
    free, said = await _native_call(asking, ASK_ROWS, None)
    if free is None:
        means = "use tool_calling='text'"
        return Measured(value=None, shown="refused", means=means, details={"called_by_itself": False, "said": said})
    forced, refused = await _native_call(asking, GREET, "any")
    calling = forced if forced and not _has_call(free) else free
    covered = _is_covered(calling.choices[0])
    details = {
        "covered": covered,
        "called_by_itself": _has_call(free),
        "forcing": "refused" if forced is None else "honoured" if _has_call(forced) else "ignored",
        "forcing_said": refused,
        "tokens_allowed": CALL_TOKENS,
    }
    if _has_call(free):
        means = _CALLS[covered] if covered else f"{_CALLS[covered]}: use tool_calling='text'"
        if details["forcing"] != "honoured":
            means += f"; tool_choice is {details['forcing']}"
        return _measured(free, means, details)
    means = "the model did not call by itself: use tool_calling='text'"
    if not _has_call(calling):
        return Measured(value=None, shown=f"no call in {CALL_TOKENS} tokens", means=means, details=details)
    return _measured(calling, f"{means}; when forced, {_CALLS[covered]}", details)


_CALLS: Final = {True: "calls are scored", False: "the tokens of calls are not scored"}


async def text_tools(asking: Asking) -> Measured:
    """Coverage of a tool call that is written as text."""
    model = asking.model(tool_calling="text")
    bound = _bound(model.bind_tools([RUN_QUERY]))
    payload = asking.payload(ASK_ROWS, max_tokens=CALL_TOKENS, temperature=0.0, model=model, bound=bound)
    answer = await asking.answer(payload)
    called = bool(read_calls(answer.choices[0].text, ["run_query"]).valid)
    made = "a call was read from the text" if called else "no call was read: the model may be too weak for tools"
    return _measured(answer, _floor_words(answer, made, "text is not scored"), {"called": called})


async def streamed_tools(asking: Asking) -> Measured:
    """Whether native tools, streaming and log-probabilities go together."""
    model = asking.model(tool_calling="native")
    bound = _bound(model.bind_tools([RUN_QUERY]))
    payload = asking.payload(ASK_ROWS, max_tokens=CALL_TOKENS, temperature=0.0, model=model, bound=bound, stream=True)
    try:
        answer = await asking.answer(payload)
    except ModelServerError as error:
        if not is_refusal(error):
            raise
        return Measured(
            value=False,
            shown="refused",
            means="ChatLogprobs asks in one piece where tools are native",
            details={"said": str(error)},
        )
    covered, called = _is_covered(answer.choices[0]), _has_call(answer)
    means = _STREAMED[covered] if called or not covered else f"{_STREAMED[covered]} in a turn without a call"
    return Measured(value=covered, shown=_shown(answer), means=means, details={"called": called, **_figures(answer)})


_STREAMED: Final = {True: "they go together", False: "log-probabilities are lost; ChatLogprobs asks in one piece"}


async def _long_answer(asking: Asking, *, stream: bool) -> Answer:
    """The first answer that is long enough, else the longest."""
    answers: list[Answer] = []
    for says in LONG:
        answers.append(await asking.answer(asking.payload(says, max_tokens=TEXT_TOKENS, stream=stream)))
        if answers[-1].choices[0].generated_tokens >= ENOUGH_TOKENS:
            break
    return max(answers, key=lambda answer: answer.choices[0].generated_tokens)


async def _native_call(asking: Asking, says: str, tool_choice: str | None) -> tuple[Answer | None, str | None]:
    """The answer of a model with a tool; or None, and what a server that refuses it said."""
    model = asking.model(tool_calling="native")
    bound = _bound(model.bind_tools([RUN_QUERY], tool_choice=tool_choice))
    payload = asking.payload(says, max_tokens=CALL_TOKENS, temperature=0.0, model=model, bound=bound)
    try:
        return await asking.answer(payload), None
    except ModelServerError as error:
        if not is_refusal(error):
            raise
        return None, str(error)


def _bound(runnable: Any) -> Mapping[str, Any]:
    return runnable.kwargs


def _has_call(answer: Answer) -> bool:
    return bool(answer.choices[0].tool_calls)


def _is_covered(completion: Completion) -> bool:
    """Whether coverage is high enough, leaving aside the end of a turn.

    End-of-turn tokens and those of stop sequences are counted and not listed by some servers. In answers as short as
    these they weigh much; so it is enough that all that was said is listed, but for a few tokens.
    """
    logprobs = completion.logprobs
    if logprobs is None or not logprobs.scored_tokens:
        return False
    said = [completion.reasoning, completion.text, *(part for call in completion.tool_calls for part in call[1:])]
    in_full = len(logprobs.text) >= len("".join(said).encode("utf-8", "surrogatepass"))
    let_pass = END_TOKENS if in_full and completion.finish_reason != "length" else 0
    return logprobs.scored_tokens + let_pass >= MIN_COVERAGE * completion.generated_tokens


def _scored(completion: Completion) -> int:
    return completion.logprobs.scored_tokens if completion.logprobs else 0


def _figures(answer: Answer) -> dict[str, Any]:
    completion = answer.choices[0]
    return {
        "scored_tokens": _scored(completion),
        "generated_tokens": completion.generated_tokens,
        "counted_by_server": answer.usage is not None,
    }


def _shown(answer: Answer) -> str:
    completion = answer.choices[0]
    return f"{_scored(completion) / max(1, completion.generated_tokens):.2f} of {completion.generated_tokens} tokens"


def _floor_words(answer: Answer, good: str, bad: str) -> str:
    completion = answer.choices[0]
    if _is_covered(completion):
        low = _scored(completion) < MIN_COVERAGE * completion.generated_tokens
        return f"{good} (its end is counted and not listed)" if low else good
    return f"below the floor of {MIN_COVERAGE}: {bad}"


def _measured(answer: Answer, means: str, details: Mapping[str, Any] | None = None) -> Measured:
    completion = answer.choices[0]
    if not completion.generated_tokens:
        return not_measured("the answer was empty")
    if answer.usage is None:
        means += " (the server does not count tokens: estimated)"
    return Measured(
        value=_scored(completion) / completion.generated_tokens,
        shown=_shown(answer),
        means=means,
        details={**_figures(answer), **(details or {})},
    )
