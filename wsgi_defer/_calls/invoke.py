"""How a function is run: in its context, inside of what is opened around calls."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from contextvars import Context
from types import CoroutineType
from typing import Any

# What is opened around a call and closed after it, such as a database session.
Around = Callable[[], AbstractContextManager[object]]
# A context, and what to call in it: a function, its arguments and keyword arguments.
Invocation = tuple[Context, Callable[..., object], tuple[Any, ...], Mapping[str, Any]]


def invoke(invocation: Invocation, around: Around | None) -> object:
    """Run what ``Call.take()`` has returned; raises and returns what that does.

    A coroutine runs to its end. Not a method of the call: frame cycle.
    """
    context, fn, args, kwargs = invocation
    try:
        if around is not None:
            return context.run(_complete_within, around, fn, args, kwargs)
        result = context.run(fn, *args, **kwargs)
        return result if result is None else context.run(complete, result)
    except BaseException:
        del invocation, context, args, kwargs  # frame cycle
        raise


def complete(result: object) -> object:
    """Run a coroutine to its end, and return its result; return others as they are."""
    # The exact type first: the test for the other costs ten times as much.
    if isinstance(result, (CoroutineType, Coroutine)):
        from .coroutine import run_to_end  # asyncio takes 50 ms, and few need it

        return run_to_end(result)
    return result


def _complete_within(
    around: Around,
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> object:
    with around():
        return complete(fn(*args, **kwargs))
