"""Damaged tool calls through the parser: it must not raise, and not find a call that the text does not contain.

    python -m benchmarks.fuzz_tool_calls

Every text follows from the seed and its number. Ends with exit code 1 at the first text that is read wrongly.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from entcent_agents.chat.text_tools import TextCalls, read_calls

KNOWN: Final = ("search", "write_file", "now")
ARGUMENTS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"query": "bees", "limit": 2},
    {"path": "C:\\temp\\new.txt", "text": 'He said "no",\nthen\tleft. \u2028 é ☃ 😀'},
    {"filter": {"tags": ["a", "it's", "{}"], "deep": [{"x": None}]}, "exact": True},
    {"sql": "SELECT name FROM t WHERE note LIKE '%```json%' AND x = '{\"name\": \"drop\"}'"},
)
PIECES: Final = (
    *"{}[]()\"'\\,:`<>/=\n\x00é☃",
    *('"""', "'''", "{{", "}}", "```", "```json\n", "\\u00", "\\ud83d", "\\n", '\\"', "None", "NaN", "1e999", "-"),
    *('"name":', '"arguments":', "'name': '", "search(", "<tool_call>", "</tool_call>", "<tool_response>", "9" * 400),
)
DELIBERATE: Final = 0.9
"""Share of texts that begin as a call; the others are pieces alone."""
SHOWN: Final = 600
_ESCAPE: Final = re.compile(
    r"\\u([dD][89abAB][\da-fA-F]{2})\\u([dD][c-fC-F][\da-fA-F]{2})|\\u([\da-fA-F]{4})|\\(.)", re.DOTALL
)
ESCAPABLE: Final = '"\\/bfnrt'
_LETTERS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def forms(name: str, arguments: dict[str, Any]) -> list[str]:
    """One call in the ways models write it."""
    plain = {"name": name, "arguments": arguments}
    text = json.dumps(plain)
    return [
        text,
        f"Let me see.\n```json\n{json.dumps(plain, ensure_ascii=False, indent=2)}\n```\nDone.",
        f"<tool_call>\n{text}\n</tool_call>",
        repr(plain),
        json.dumps({"name": name, "arguments": json.dumps(arguments)}),
        json.dumps({"function": {"name": name, "parameters": arguments}}),
        json.dumps([plain, {"tool": name, "input": arguments}]),
        text.replace("{", "{{").replace("}", "}}"),
    ]


def damaged(rng: random.Random) -> str:
    """One text: calls cut, doubled, spliced and strewn with pieces of syntax."""
    if rng.random() > DELIBERATE:
        return "".join(rng.choices(PIECES, k=rng.randrange(40)))
    text = "\n".join(rng.choice(forms(rng.choice(KNOWN), rng.choice(ARGUMENTS))) for _ in range(rng.choice((1, 1, 2))))
    for _ in range(rng.randrange(6)):
        start, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        short = min(end, start + rng.randrange(1, 6))
        text = rng.choice(
            (
                text[:start] + text[short:],
                text[:start] + rng.choice(PIECES) + text[start:],
                text[:start] + rng.choice(PIECES) + text[short:],
                text[:end] + text[start:],
                text[:end],
                text[start:] + text[:start],
            )
        )
    return text


def unescaped(text: str, escapable: str) -> str:
    """The text with escapes read, apart from the parser's own way to do it; other backslashes stay."""

    def said(escape: re.Match[str]) -> str:
        high, low, code, letter = escape.groups()
        if high:
            return (chr(int(high, 16)) + chr(int(low, 16))).encode("utf-16", "surrogatepass").decode("utf-16")
        if code:
            return chr(int(code, 16))
        return _LETTERS.get(letter, letter) if letter in escapable else escape[0]

    return _ESCAPE.sub(said, text)


def strings(value: Any) -> Iterator[str]:
    """Every string and key within a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def foreign(text: str, calls: TextCalls) -> list[str]:
    """What the calls say and the text, escaped up to twice, does not."""
    views = [text]
    for _ in range(2):
        views += [unescaped(view, escapable) for view in views for escapable in (ESCAPABLE, ESCAPABLE + "'")]
    said = [each for call in calls.valid for each in (call["name"], *strings(call["args"]))]
    said += [each for call in calls.invalid for each in (call["name"] or "", call["args"] or "")]
    return [each for each in said if not any(each in view for view in views)]


def check(seed: int, number: int) -> int:
    """Read one text and give the number of calls in it.

    Raises:
        AssertionError: Where a call says what the text does not; the message shows both.
    """
    text = damaged(random.Random(f"{seed}:{number}"))
    calls = read_calls(text, KNOWN if number % 2 else ())
    invented = foreign(text, calls)
    if invented:
        raise AssertionError(f"text {number} of seed {seed}: {invented!r} is not in {text[:SHOWN]!r}")
    return len(calls.valid)


def main(texts: Annotated[int, typer.Option(min=1)] = 10_000, seed: int = 0) -> None:
    """Read so many damaged texts, and say how many calls were in them."""
    started = time.process_time()
    found = [check(seed, number) for number in range(texts)]
    Console().print(
        f"{texts:,} texts, {sum(found):,} calls in {sum(map(bool, found)):,} of them, none invented, no exception; "
        f"{time.process_time() - started:.0f} s of CPU time"
    )


if __name__ == "__main__":
    sys.exit(typer.run(main))
