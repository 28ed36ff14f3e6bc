"""The observer that warns of arguments which a call cannot use as the view does.

It imports no third party: without SQLAlchemy, there are no objects of a session.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from .._runtime import report
from ._observer import Call, Observer, Scope


class ArgumentObserver(Observer):
    """Warns of objects of a database session and of lazy proxies, by their types only.

    Once for each line that defers one, because it is the line that is to be changed.

    :param lasting: the types of what outlives a request, so that a proxy may stand for
        it, such as the app.
    """

    def __init__(self, lasting: tuple[type, ...] = ()) -> None:
        self._lasting = lasting
        self._told: set[tuple[str, str]] = set()

    def queued(self, call: Call, scope: Scope) -> None:
        for argument in _arguments(call):
            what = self._trouble(argument)
            if what is not None and (call.origin, what) not in self._told:
                self._told.add((call.origin, what))
                report.log(
                    logging.WARNING, "%s call %s has an argument of type %s; from %s",
                    call.kind, call.label, what, call.origin,
                )  # fmt: skip

    def _trouble(self, argument: Any) -> str | None:
        proxy = _class("werkzeug.local", "LocalProxy")
        is_proxy = proxy is not None and issubclass(type(argument), proxy)
        stands_for = argument
        if is_proxy:
            try:
                stands_for = argument._get_current_object()
            except RuntimeError:  # for nothing, at the moment
                pass
        kind = type(stands_for).__name__
        if _in_a_session(stands_for):
            return (
                f"{kind}, which belongs to a database session of the request; the call "
                "has a session of its own, so what it changes there may be lost "
                "silently: pass its id, and load it in the call"
            )
        if not is_proxy or issubclass(type(stands_for), self._lasting):
            return None
        return (
            f"{kind}, by a proxy that outlives the request, and then stands for "
            "something else or nothing: pass the values that the call needs"
        )


def _arguments(call: Call) -> Iterator[Any]:
    """All that its function is given, one level into collections."""
    fn = call._fn
    args, kwargs = call._arguments
    given = [*args, *kwargs.values()]
    while isinstance(fn, partial):
        given += [*fn.args, *fn.keywords.values()]
        fn = fn.func
    given.append(getattr(fn, "__self__", None))  # of a method
    for argument in given:
        yield argument
        # Exact types: others may load something when they are looked through.
        if type(argument) is dict:
            yield from argument.values()
        elif type(argument) in (list, tuple, set, frozenset):
            yield from argument


def _in_a_session(argument: Any) -> bool:
    state_kind = _class("sqlalchemy.orm.state", "InstanceState")
    if state_kind is None:
        return False
    try:
        state = argument._sa_instance_state
    except Exception:  # whatever it does about names that it does not have
        return False
    return isinstance(state, state_kind) and state.session is not None


def _class(module: str, name: str) -> Any:
    """The class, if its module has been imported and has it."""
    return getattr(sys.modules.get(module), name, None)
