"""The API reference: a page a module, each public name once in full, and links for the names that stand elsewhere."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from docutils import nodes
from docutils.statemachine import StringList
from pydantic.fields import FieldInfo
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature

PACKAGE = "entcent_agents"
PAGES = sorted(page.stem for page in (Path(__file__).parent / "reference").glob(f"{PACKAGE}*.md"))

# What is met in signatures and results of a page, and imported by hand alone where somebody wants to name its type.
MET = {
    "entcent_agents.branching": ["branching.pool.PooledRequest"],
    "entcent_agents.chat": [
        "chat.branches.Branched",
        "chat.capabilities.Capabilities",
        "chat.continuation.Continuation",
        "chat.continuation.ContinuationMethod",
        "chat.continuation.Joint",
        "chat.embedded.EmbeddedServer",
        "chat.probes.asking.Cost",
        "chat.probes.measured.Measured",
        "chat.store.ModelStore",
        "chat.store.StoredModel",
        "chat.catalogue.KnownModel",
        "chat.catalogue.MirrorPart",
        "capture.recorder.LogprobsGeneration",
    ],
    "entcent_agents.effects": ["effects.metadata.Tool"],
    "entcent_agents.environments": ["environments.protocol.Sealed"],
    "entcent_agents.ledger": ["ledger.decision.Change", "ledger.values.StoredValue"],
    "entcent_agents.nodes": ["nodes.settings.RolloutSettings"],
    "entcent_agents.recordings": ["recordings.records.ReadingOptions"],
    "entcent_agents.selection": ["selection.chain.Chainable"],
    "entcent_agents.telemetry": ["recordings.keeping.RecordedRound", "telemetry.spans.RoundSpans"],
}
RAW = re.compile(r"(?<!\w)~\w|<(module|function|factory|\w+ object|[\w.]+ at 0x)")
# Bases and state that add nothing for a reader.
INTERNAL = {
    "entcent_agents.middleware.entropy_centroid.TurnsState",
    "entcent_agents.nodes.state.Node",
    "entcent_agents.telemetry.calls.CallSpans",
    "entcent_agents.chat.downloads.Progress",
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive to a build, and what finds the names that it documents."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-skip-member", _fields_are_told_already)
    app.connect("autodoc-process-signature", _own_fields_alone)
    app.connect("autodoc-process-signature", _defaults_as_python)
    app.connect("missing-reference", _where_it_is_public)
    app.connect("doctree-read", _nothing_is_left_raw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def names_of(module: ModuleType) -> list[str]:
    """What a module offers: what it says, or without a word of it, what it defines without an underscore."""
    defined = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
        if value.__module__ == module.__name__
    ]
    return getattr(module, "__all__", sorted(defined))


@cache
def homes() -> dict[str, str]:
    """Where each public object is documented, by each name that it can be called by.

    Its home is the page whose module is the closest to where it is defined, of those that offer it.
    """
    offers = [(page, name, value) for page in PAGES for name, value in _offered(page)]
    found = {f"{PACKAGE}.{path}": f"{PACKAGE}.{path}" for paths in MET.values() for path in paths}
    for page, name, value in sorted(offers, key=lambda offer: len(offer[0])):  # the closest comes last and stands
        if _defined(value, page, name).startswith(f"{page}."):
            found[_defined(value, page, name)] = f"{page}.{name}"
    for page, name, value in offers:
        found[f"{page}.{name}"] = found.setdefault(_defined(value, page, name), f"{page}.{name}")
    return found


def _offered(page: str) -> list[tuple[str, object]]:
    module = importlib.import_module(page)
    return [(name, getattr(module, name)) for name in names_of(module)]


def _defined(value: object, page: str, name: str) -> str:
    """Where an object is defined; a constant or the name of a type, which does not know, is where it is offered."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{page}.{name}"


class PublicNames(SphinxDirective):
    """`.. public-names:: module` documents a module and all it offers."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The module's docstring, the names that it offers from elsewhere, and its own ones in full."""
        page = self.arguments[0]
        self.env.note_dependency(__file__)
        self.env.note_dependency(importlib.import_module(page).__file__ or "")
        own, elsewhere = [], {}
        for name, value in _offered(page):
            home = homes()[f"{page}.{name}"]
            if home == f"{page}.{name}":
                own.append((home, value))
            else:
                elsewhere[home] = value
        own += [(f"{PACKAGE}.{path}", _met(path)) for path in MET.get(page, [])]
        lines = [f".. automodule:: {page}", "   :no-members:", "", *_table(elsewhere)]
        for name, value in own:
            lines += [f".. {_kind(value)}:: {name}", *_options(value), ""]
        return self.parse_text_to_nodes(StringList(lines, source=page))


def _options(value: object) -> list[str]:
    if not inspect.isclass(value):
        return []
    tells = any(f"{base.__module__}.{base.__qualname__}" in homes() for base in value.__bases__)
    return ["   :members:", *(["   :show-inheritance:"] if tells else [])]


def _met(path: str) -> object:
    module, _, name = f"{PACKAGE}.{path}".rpartition(".")
    return getattr(importlib.import_module(module), name)


def _table(rows: dict[str, object]) -> Iterator[str]:
    if rows:
        yield from (".. list-table::", "   :widths: auto", "")
        for name, value in rows.items():
            summary = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
            yield from (f"   * - :py:obj:`~{name}`", f"     - {summary}")
        yield ""


def _kind(value: object) -> str:
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def _fields_are_told_already(app: Sphinx, what: str, name: str, member: object, *_: object) -> bool | None:
    """Fields of named tuples are in the docstring of their class; what LangChain and pydantic ask for is in theirs."""
    theirs = name.startswith(("model_", "lc_", "is_lc_")) or inspect.ismodule(member)
    return True if theirs or type(member).__name__ == "_tuplegetter" else None


def _own_fields_alone(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str, result: str
) -> tuple[str, str] | None:
    """A model's own fields, and not the dozens that it has from LangChain."""
    fields = getattr(value, "__pydantic_fields__", None)
    if what != "class" or fields is None:
        return None
    own = [
        Parameter(key, Parameter.KEYWORD_ONLY, **_told(fields[key])) for key in value.__annotations__ if key in fields
    ]
    return stringify_signature(Signature(own), unqualified_typehints=True), result


def _defaults_as_python(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, result: str | None
) -> tuple[str, str | None] | None:
    """A default of a field that is made anew, `<factory>`, is no Python: types beside it would be left in raw text."""
    return (re.sub(r"<[^<>]*>", "...", signature), result) if signature and "<" in signature else None


def _nothing_is_left_raw(app: Sphinx, page: nodes.document) -> None:
    """Warn of a signature that shows what Python prints of an object, or a type that could not be read."""
    for signature in page.findall(desc_signature):
        if RAW.search(signature.astext()):
            name = (signature["ids"] or [signature.astext()])[0]
            logging.getLogger(__name__).warning("%s is shown raw", name, location=app.env.docname)


def _told(field: FieldInfo) -> dict[str, object]:
    given = {} if field.is_required() else {"default": field.get_default(call_default_factory=True)}
    return {"annotation": field.annotation, **given}


def _where_it_is_public(
    app: Sphinx, environment: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Element | None:
    """Link a type by the name that users import, and leave names of other libraries as text.

    A type of this package that no page documents is left to the warning: a reader of the signature would look for it.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target in homes():
        domain = environment.domains.python_domain
        return domain.resolve_xref(environment, node["refdoc"], app.builder, "obj", homes()[target], node, text)
    return text if not target.startswith(PACKAGE) or target in INTERNAL or _is_parameter(target) else None


def _is_parameter(target: str) -> bool:
    module, _, name = target.rpartition(".")
    return isinstance(getattr(sys.modules.get(module), name, None), TypeVar)
