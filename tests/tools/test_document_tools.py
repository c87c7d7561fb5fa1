from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.tools import BaseTool

from entcent_agents.environments import SqliteEnvironment, SqliteFork, commit, use_environments
from tools import documents
from tools.documents import build, document_tools

TOOLS: dict[str, BaseTool] = {tool.name: tool for tool in document_tools()}


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[SqliteFork]:
    folder = tmp_path / "texts"
    (folder / "birds").mkdir(parents=True)
    (folder / "birds" / "penguin.md").write_text("# Penguins\n\nPenguins were breeding on the islands.\n")
    (folder / "whale.txt").write_text("Whales sing. A whale was heard at Café Île.\n")
    (folder / "long.md").write_text("\n\n".join(f"Paragraph {i} of the report: " + "words " * 60 for i in range(40)))
    (folder / "picture.png").write_bytes(b"\x89PNG whale")
    assert build(tmp_path / "library.db", folder) == 3
    made = SqliteEnvironment(tmp_path / "library.db", "documents").fork()
    with use_environments({"documents": made}):
        yield made
    made.discard()


def call(name: str, **arguments: str | int) -> str:
    return TOOLS[name].invoke(arguments)


def test_effects_are_declared_in_metadata() -> None:
    effects = {name: (tool.metadata or {})["effect"] for name, tool in TOOLS.items()}
    assert effects == {"search": "READ", "read_document": "READ", "add_document": "WRITE"}
    assert {(tool.metadata or {})["environment"] for tool in TOOLS.values()} == {"documents"}


def test_search_finds_other_forms_of_a_word_and_ranks_by_how_many_fit(fork: SqliteFork) -> None:
    assert call("search", query="penguin breeds").startswith("[birds/penguin.md, part 1]\n# Penguins Penguins were")
    assert call("search", query="cafe") == "[whale.txt, part 1]\nWhales sing. A whale was heard at Café Île."
    hits = call("search", query="whale penguins islands").split("\n\n")
    assert [hit.splitlines()[0] for hit in hits] == ["[birds/penguin.md, part 1]", "[whale.txt, part 1]"]
    assert len(call("search", query="words").split("\n\n")) == 6  # as many parts as the report has


@pytest.mark.parametrize("query", ['whale" OR', "text: whale*", "whale NEAR(", "NOT whale", "(whale AND"])
def test_what_looks_like_query_syntax_is_taken_as_words(fork: SqliteFork, query: str) -> None:
    assert "[whale.txt, part 1]" in call("search", query=query)


def test_a_search_that_finds_nothing_says_what_there_is(fork: SqliteFork) -> None:
    assert call("search", query="zebra") == (
        "No document has any of these words. The documents are: birds/penguin.md, long.md, whale.txt."
    )
    assert call("search", query="?!") == "Error: the query has no words."


def test_a_long_document_is_read_part_by_part_without_a_gap(fork: SqliteFork) -> None:
    first = call("read_document", document="long.md")
    count = int(first.splitlines()[0].removeprefix("[long.md, part 1 of ").removesuffix("]"))
    parts = [call("read_document", document="long.md", part=i + 1).partition("\n")[2] for i in range(count)]
    source = "\n\n".join(f"Paragraph {i} of the report: " + "words " * 60 for i in range(40))
    assert " ".join(parts).split() == source.split()
    assert all(part.startswith("Paragraph") for part in parts)
    assert call("read_document", document="long.md", part=99) == f"Error: long.md has {count} parts."
    assert call("read_document", document="none").startswith("Error: there is no document 'none'. The documents are: ")


def test_a_text_without_a_space_is_split_too() -> None:
    assert [len(part) for part in documents._split("x" * 7_000)] == [3_000, 3_000, 1_000]
    assert list(documents._split("  ")) == []


def test_halves_of_characters_come_back_as_text(fork: SqliteFork) -> None:
    said = [
        call("read_document", document="\ud800"),
        call("add_document", document="a\ud800", text="b"),
        call("add_document", document="a", text="\ud800"),
    ]
    assert {*said} == {"Error: an argument holds characters that cannot be written as UTF-8."}


def test_what_is_added_is_found_in_the_fork_and_after_its_commit(fork: SqliteFork) -> None:
    assert call("add_document", document="note", text="Zebras live elsewhere.") == "Added note, parts: 1."
    assert "[note, part 1]" in call("search", query="zebra")
    assert call("add_document", document="note", text="again").startswith("Error: there is a document 'note' already")
    assert call("add_document", document=" ", text="x") == "Error: a document needs a name and a text."
    assert "characters are too many" in call("add_document", document="big", text="x" * 200_001)
    (change,) = fork.diff()
    assert change.text == " document | part | text\n+note | 1 | Zebras live elsewhere."
    environment = fork.environment
    commit([fork])
    after = environment.fork()
    with use_environments({"documents": after}):
        assert "[note, part 1]" in call("search", query="zebra")
    after.discard()
