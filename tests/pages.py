"""What the pages show: their blocks by language, and the words of their inline code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tools").rglob("*.md")])
ELSEWHERE = {
    "http://127.0.0.1:2024": "tests/graphs/test_served.py, on the server that it starts",
    "capabilities_of(": "tests/real/test_embedded_capabilities.py, which looks at what was measured",
}
"""Blocks that have these words are run by another test, which has what they need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of a page.

    Attributes:
        page: Its path from the root of the repository.
        line: Where it begins, from 1.
        language: As the fence says; empty for indented blocks.
        text: What is in it.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str | None = None) -> list[Block]:
    """All blocks of all pages, or those of one language."""
    return [block for page in PAGES for block in _of(page) if language in (None, block.language)]


def block_with(words: str) -> str:
    """The text of the only Python block that has these words."""
    (text,) = (block.text for block in blocks("python") if words in block.text)
    return text


def inline_code() -> list[tuple[str, str]]:
    """Page and text of everything in backticks."""
    return [
        (page.relative_to(ROOT).as_posix(), inner.content)
        for page in PAGES
        for token in _parsed(page)
        for inner in token.children or ()
        if inner.type == "code_inline"
    ]


def _of(page: Path) -> Iterator[Block]:
    for token in _parsed(page):
        if token.type in ("fence", "code_block"):
            line = (token.map or [0])[0] + 1
            yield Block(page=page.relative_to(ROOT).as_posix(), line=line, language=token.info, text=token.content)


def _parsed(page: Path):
    return MarkdownIt().enable("table").parse(page.read_text())
