"""docs/providers.md says of every known class how to ask it, within what `with_logprobs` takes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from entcent_agents.capture.settings import _NO_LOGPROBS, _PROVIDERS, with_logprobs

PAGE = (Path(__file__).parent.parent / "docs" / "providers.md").read_text()
ASKED = {
    name: int(top) if top else None for name, top in re.findall(r"with_logprobs\((\w+)\(…\)(?:, top=(\d+))?", PAGE)
}
"""How the page says a class is asked."""
WRITTEN_AS = {"BaseChatOpenAI": "ChatOpenAI", "ChatLogprobs": None, "ScriptedChat": None}
"""Classes under another name on the page, and those that need no asking."""
MOST = {
    WRITTEN_AS.get(name, name): provider.most
    for (_, name), provider in _PROVIDERS.items()
    if WRITTEN_AS.get(name, name)
}


def test_every_class_that_can_be_asked_is_on_the_page_and_no_other():
    assert {*ASKED} - {"AzureChatOpenAI"} == {*MOST}  # Azure's is one of OpenAI's


@pytest.mark.parametrize("name", MOST)
def test_what_the_page_says_to_ask_for_is_not_refused(name: str):
    default = inspect.signature(with_logprobs).parameters["top"].default
    assert (ASKED[name] or default) <= MOST[name](object())


def test_every_class_that_is_refused_is_on_the_page():
    assert [name for _, name in _NO_LOGPROBS if f"`{name}`" not in PAGE] == []


def test_every_source_that_is_cited_is_named_and_the_other_way_round():
    cited = {*re.findall(r"\]\[([a-z0-9-]+)\]", PAGE)}
    named = re.findall(r"^\[([a-z0-9-]+)\]: https://\S+$", PAGE, re.MULTILINE)
    assert cited == {*named} and named == sorted(named)


def test_rows_have_as_many_cells_as_their_table():
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table.splitlines()[0]
