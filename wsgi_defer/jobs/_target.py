"""The ``Jobs`` that the command is told to use, such as ``shop:jobs``."""

from __future__ import annotations

import ast
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any

from ._jobs import Jobs

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class Refusal(Exception):  # noqa: N818 - no error of the program
    """Ends the command with one line."""


def parse(text: str) -> tuple[str, str, tuple[list[Any], dict[str, Any]] | None]:
    """The module, the name in it, and what it is called with, if it is called.

    Like Flask's ``--app``: ``shop:jobs``, ``shop:app``, ``shop:create_app()`` or
    ``shop:create_app("test")``. Raises ``ValueError``.
    """
    module, _, rest = text.partition(":")
    name, given = rest, None
    if rest.endswith(")"):
        try:
            call = ast.parse(rest, mode="eval").body
            if not isinstance(call, ast.Call):
                raise ValueError("no call")
            words: dict[str, Any] = {}
            for word in call.keywords:
                if word.arg is None:
                    raise ValueError("no plain value: **")
                words[word.arg] = ast.literal_eval(word.value)
            given = [ast.literal_eval(argument) for argument in call.args], words
            name = ast.unparse(call.func)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"{text[:100]!r} is not like shop:create_app(); a call may have only "
                "plain values, such as 1 or 'test'"
            ) from error
    if not (module and _NAME.fullmatch(name)):
        raise ValueError(f"{text[:100]!r} is not like shop:jobs or shop:create_app()")
    return module, name, given


def is_name(text: str) -> bool:
    """Whether it is like the name of a module."""
    return _NAME.fullmatch(text) is not None


def import_more(modules: Iterable[str]) -> None:
    """Import modules that have handlers. Raises ``Refusal``."""
    for module in modules:
        _tried(f"cannot import {module}", partial(import_module, module))


def load(path: str) -> Jobs:
    """The ``Jobs`` of that path; its module may be in the current directory.

    A Flask app has one if ``jobs.init_app(app)`` was called. Raises ``Refusal``.
    """
    module, name, given = parse(path)
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)
    found = _tried(f"cannot import {module}", lambda: import_module(module))
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Refusal(f"{module} has no {name}") from None
    if given is not None:
        args, words = given
        _check_arguments(path, found, args, words)
        made = found
        found = _tried(f"cannot call {path}", lambda: made(*args, **words))
    extensions = getattr(found, "extensions", None)
    if isinstance(extensions, dict):  # of a Flask app
        found = extensions.get("wsgi_defer_jobs")
        if found is None:
            raise Refusal(f"{path} is an app without Jobs; call jobs.init_app(app)")
    if isinstance(found, Jobs):
        return found
    hint = ""
    if given is None and callable(found):
        hint = f". If it makes the app, write '{path}()'"
    raise Refusal(f"{path} is not a Jobs object, but a {type(found).__name__}{hint}")


def _check_arguments(
    path: str, made: Any, args: list[Any], words: dict[str, Any]
) -> None:
    """Refuse arguments that it does not take; the fault is not in its own lines."""
    try:
        takes = signature(made)
    except (TypeError, ValueError):  # not callable, or it does not tell
        return
    try:
        takes.bind(*args, **words)
    except TypeError as error:
        raise Refusal(f"cannot call {path}: {error}") from None


def _tried(what: str, do: Callable[[], Any]) -> Any:
    """What it returns. Raises ``Refusal`` that says where it went wrong."""
    try:
        return do()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f", in {where.filename}, line {where.lineno}"
        if where.filename.startswith("<frozen importlib"):
            at = ""
        raise Refusal(f"{what}: {type(error).__name__}: {error}{at}") from error
