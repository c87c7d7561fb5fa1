"""What is used of the package bfcl-eval, imported without its side effects and without what it drags in."""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from threading import RLock
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MODEL: Final = "ours"
"""The one model that the AST checker is told of: its tool names have underscores for dots."""
BACKENDS: Final = RLock()
"""Held while a simulated service or a checker runs: the services write to globals of their modules, and the checker
keeps its instances in globals."""

_CHECKS: Final = "bfcl_eval.eval_checker"
_MODELS: Final = "bfcl_eval.constants.model_config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """Functions and tables of the package.

    Attributes:
        entries: Tasks of a category.
        ground_truth: Answers of a category, in the same order.
        ast_checker: Judges the calls of one reply.
        language: The checker's enumeration of languages.
        multi_turn_checker: Replays calls beside the ground truth and compares, turn by turn.
        executor: The module in whose globals the replay keeps its instances.
        services: Class → module of the simulated services.
        stateless: Classes without a scenario.
        json_types: Types of the function documents → those of JSON schemas.
        max_steps: Replies with calls in one turn.
        functions_added: What the user says when withheld functions are there.
        extensions: The module of texts that make a context long.
    """

    entries: Callable[..., list[dict[str, Any]]]
    ground_truth: Callable[[str], list[dict[str, Any]]]
    ast_checker: Callable[..., dict[str, Any]]
    language: Any
    multi_turn_checker: Callable[..., dict[str, Any]]
    executor: ModuleType
    services: Mapping[str, str]
    stateless: list[str]
    json_types: Mapping[str, str]
    max_steps: int
    functions_added: str
    extensions: ModuleType


@cache
def official() -> Official:
    """Import the package. Its folders for results are made where they are deleted at once."""
    # Importing it makes folders for results and locks, beside the package unless this variable says where.
    before = os.environ.get("BFCL_PROJECT_ROOT")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BFCL_PROJECT_ROOT"] = folder
        try:
            return _import()
        finally:
            if before is None:
                del os.environ["BFCL_PROJECT_ROOT"]
            else:
                os.environ["BFCL_PROJECT_ROOT"] = before


def _import() -> Official:
    loading = import_module("bfcl_eval.utils")
    prompts = import_module("bfcl_eval.constants.default_prompts")
    backends = import_module("bfcl_eval.constants.executable_backend_config")
    checker = import_module(f"{_CHECKS}.multi_turn_eval.multi_turn_checker")
    return Official(
        entries=loading.load_dataset_entry,
        ground_truth=loading.load_ground_truth_entry,
        ast_checker=_ast_checker(),
        language=import_module("bfcl_eval.constants.enums").Language,
        multi_turn_checker=checker.multi_turn_checker,
        executor=import_module(f"{_CHECKS}.multi_turn_eval.multi_turn_utils"),
        services=backends.CLASS_FILE_PATH_MAPPING,
        stateless=backends.STATELESS_CLASSES,
        json_types=import_module("bfcl_eval.constants.type_mappings").GORILLA_TO_OPENAPI,
        max_steps=prompts.MAXIMUM_STEP_LIMIT,
        functions_added=prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC,
        extensions=import_module(f"{backends.BACKEND_PATH_PREFIX}.long_context"),
    )


def _ast_checker() -> Callable[..., dict[str, Any]]:
    # The checker asks one thing of the table of models: whether dots in names were replaced. The real table imports
    # the packages of every provider.
    known = sys.modules.get(_MODELS)
    table = ModuleType(_MODELS)
    table.__dict__["MODEL_CONFIG_MAPPING"] = {MODEL: SimpleNamespace(underscore_to_dot=True)}
    sys.modules[_MODELS] = table
    try:
        return import_module(f"{_CHECKS}.ast_eval.ast_checker").ast_checker
    finally:
        if known is None:
            del sys.modules[_MODELS]
        else:
            sys.modules[_MODELS] = known


@cache
def shared_objects() -> tuple[tuple[Any, Any], ...]:
    """What the services change for everybody, with a copy of each as it was.

    They put the tables that make a context long into their state by reference, and lists that are the default of a
    parameter end up there as well.
    """
    tables: list[Any] = [value for name, value in vars(official().extensions).items() if name.isupper()]
    classes = [getattr(import_module(module), name) for name, module in _offered().items()]
    defaults: list[Any] = [
        default
        for service in classes
        for _, method in inspect.getmembers(service, inspect.isfunction)
        for default in method.__defaults__ or ()
    ]
    return tuple((value, deepcopy(value)) for value in (*tables, *defaults) if _can_change(value))


def restore_shared_objects() -> None:
    """Undo what a check did to them."""
    for value, before in shared_objects():
        if value != before:
            value.clear()
            (value.update if isinstance(value, dict) else value.extend)(deepcopy(before))


def _can_change(value: object) -> bool:
    return isinstance(value, dict | list)


def _offered() -> dict[str, str]:
    # The services of agentic categories want a vector store and the web, and are of no use here.
    return {
        name: module for name, module in official().services.items() if not name.startswith(("Memory", "WebSearch"))
    }
