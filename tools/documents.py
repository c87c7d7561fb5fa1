"""Tools on a library of documents in one SQLite file with a full-text index: search, read, add.

python -m tools.documents LIBRARY FOLDER    puts the text files of a folder into a new library
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from langchain_core.tools import BaseTool

from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import SqliteEnvironment, SqliteFork
from tools.binding import bound_tools, fork_of

ENVIRONMENT = "documents"
HITS = 8
PART_CHARACTERS = 3_000
ADDED_CHARACTERS = 200_000
LISTED_DOCUMENTS = 30
_SNIPPET_TOKENS = 40
_STATEMENT_SECONDS = 5.0
_SUFFIXES = frozenset({".adoc", ".csv", ".htm", ".html", ".md", ".rst", ".tex", ".txt"})
_TABLE = """
CREATE VIRTUAL TABLE parts USING fts5(
    document, part UNINDEXED, text, tokenize = 'porter unicode61 remove_diacritics 2'
)
"""


def document_tools(environment: SqliteEnvironment | None = None) -> list[BaseTool]:
    """The tools `search`, `read_document` and `add_document`, on the rollout's fork of the environment "documents".

    What is wrong with an argument comes back as text that starts with "Error:", so that the model can mend it; what is
    wrong with the environment is raised.

    Args:
        environment: A library that `build` made, with the name "documents"; for an agent that runs alone: see
            `bound_tools`.
    """
    return bound_tools({search: READ, read_document: READ, add_document: WRITE}, ENVIRONMENT, environment)


def search(query: str) -> str:
    """Search all documents. Returns the parts that fit best, each with its document, its number and a piece of it.

    Args:
        query: Words to look for, in any form; the more of them a part has, the better it fits.
    """
    words = re.findall(r"\w+", query)
    if not words:
        return "Error: the query has no words."
    with _connection() as connection:
        hits = connection.execute(
            "SELECT document, part, snippet(parts, 2, '', '', ' … ', ?) FROM parts WHERE parts MATCH ? "
            "ORDER BY rank, document, part LIMIT ?",
            (_SNIPPET_TOKENS, " OR ".join(f'"{word}"' for word in words), HITS),
        ).fetchall()
        if not hits:
            return f"No document has any of these words. {_names(connection)}"
    return "\n\n".join(f"[{document}, part {part}]\n{' '.join(text.split())}" for document, part, text in hits)


def read_document(document: str, part: int = 1) -> str:
    """Read one part of a document.

    Args:
        document: Its name, as search gives it.
        part: Number of the part, from 1.
    """
    with _connection() as connection:
        texts = _parts(connection, document)
        if not texts:
            return f"Error: there is no document {document!r}. {_names(connection)}"
    if not 1 <= part <= len(texts):
        return f"Error: {document} has {len(texts)} parts."
    return f"[{document}, part {part} of {len(texts)}]\n{texts[part - 1]}"


def add_document(document: str, text: str) -> str:
    """Add a document, such as a note on what was found. Later searches find it.

    Args:
        document: A name that no document has yet.
        text: The whole text.
    """
    if not document.strip() or not text.strip():
        return "Error: a document needs a name and a text."
    if len(text) > ADDED_CHARACTERS:
        return f"Error: {len(text):,} characters are too many; at most {ADDED_CHARACTERS:,} to one document."
    with fork_of(ENVIRONMENT, SqliteFork).connect(statement_seconds=_STATEMENT_SECONDS) as connection:
        if _parts(connection, document):
            return f"Error: there is a document {document!r} already; give this one another name."
        return f"Added {document}, parts: {_add(connection, document, text)}."


def build(library: Path | str, folder: Path | str) -> int:
    """Put the text files below a folder into a library, in place of a file that may be there, in one step.

    Args:
        library: The SQLite file; its directory is created if need be.
        folder: Text files by their suffix (.md, .txt and the like); documents are named by their path in it.

    Returns:
        How many documents there are.

    Raises:
        OSError: A file cannot be read or written.
    """
    library, folder = Path(library), Path(folder)
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".library-") as made_in:
        made = Path(made_in, "library.db")
        with contextlib.closing(sqlite3.connect(made)) as connection, connection:
            connection.execute(_TABLE)
            for file in files:
                _add(
                    connection, file.relative_to(folder).as_posix(), file.read_text(encoding="utf-8", errors="replace")
                )
        made.replace(library)
    return len(files)


def _connection() -> contextlib.AbstractContextManager[sqlite3.Connection]:
    return fork_of(ENVIRONMENT, SqliteFork).connect(read_only=True, statement_seconds=_STATEMENT_SECONDS)


def _parts(connection: sqlite3.Connection, document: str) -> list[str]:
    rows = connection.execute("SELECT text FROM parts WHERE document = ? ORDER BY part", (document,))
    return [text for (text,) in rows]


def _names(connection: sqlite3.Connection) -> str:
    """What there is, for a model that guessed wrong."""
    names = [name for (name,) in connection.execute("SELECT DISTINCT document FROM parts ORDER BY document")]
    more = f" and {len(names) - LISTED_DOCUMENTS} more" if len(names) > LISTED_DOCUMENTS else ""
    return (
        f"The documents are: {', '.join(names[:LISTED_DOCUMENTS])}{more}." if names else "There are no documents yet."
    )


def _add(connection: sqlite3.Connection, document: str, text: str) -> int:
    parts = list(_split(text))
    connection.executemany(
        "INSERT INTO parts VALUES (?, ?, ?)", [(document, i, part) for i, part in enumerate(parts, 1)]
    )
    return len(parts)


def _split(text: str) -> Iterator[str]:
    """Parts of a text, ended where possible between paragraphs, else between lines, else between words."""
    rest = text.strip()
    while len(rest) > PART_CHARACTERS:
        head = rest[:PART_CHARACTERS]
        end = max(head.rfind("\n\n"), 0) or max(head.rfind("\n"), 0) or max(head.rfind(" "), 0) or PART_CHARACTERS
        yield rest[:end].rstrip()
        rest = rest[end:].lstrip()
    if rest:
        yield rest


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.documents", description="Make a library of documents.")
    parser.add_argument("library", type=Path, help="the SQLite file to make; one that is there is replaced")
    parser.add_argument("folder", type=Path, help="the folder whose text files go into it")
    given = parser.parse_args()
    if not given.folder.is_dir():
        parser.error(f"{given.folder} is not a directory")
    sys.stdout.write(f"{build(given.library, given.folder)} documents in {given.library}\n")


if __name__ == "__main__":
    main()
