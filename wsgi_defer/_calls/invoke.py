"""How a function is run: in its context, inside of what is opened around calls."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, wait
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from types import BuiltinFunctionType, CoroutineType, FunctionType
from typing import Any

from .._runtime.report import qualified_name, without_partials
from .future import CANCELLED

# What is opened around a call and closed after it, such as a database session.
Around = Callable[[], AbstractContextManager[object]]
# A context, and what to call in it: a function, its arguments and keyword arguments.
Invocation = tuple[Context, Callable[..., object], tuple[Any, ...], Mapping[str, Any]]

GENERATORS = 0x20 | 0x200  # inspect.CO_GENERATOR and CO_ASYNC_GENERATOR


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
    inside: Any = None
    try:
        with around():
            try:
                return complete(fn(*args, **kwargs))
            finally:
                inside = copy_context()
    except BaseException:
        # For its report: what around() has set, and has reset at its end.
        if inside is not None:
            copy_into_this(inside)
        del inside, around, fn, args, kwargs  # frame cycle
        raise
    return None  # around() has taken the exception


def copy_into_this(context: Context) -> None:
    """Set each variable of that context in the one that this runs in."""
    for variable, value in context.items():
        variable.set(value)


def check_function(fn: object, function: str, example: str) -> None:
    """Refuse what ``function(fn)`` cannot run. Raises ``TypeError``."""
    if type(fn) is FunctionType and not fn.__code__.co_flags & GENERATORS:
        return  # most are, and the rest of this costs as much as the call itself
    if not callable(fn):
        raise TypeError(
            f"{function}() takes a function and its arguments, as in {example}; the "
            f"first argument is {type(fn).__name__}, which cannot be called"
        )
    check_no_generator(fn, function)


def check_no_generator(fn: object, function: str) -> None:
    """Refuse a generator function: to call it runs nothing. Raises ``TypeError``."""
    if type(fn) is BuiltinFunctionType or type(fn) is type:
        return
    fn = without_partials(fn)
    try:
        code = getattr(fn, "__code__", None)
        if code is None:  # an object with a method __call__, or not Python's
            code = getattr(type(fn).__call__, "__code__", None)
        if not getattr(code, "co_flags", 0) & GENERATORS:
            return
    except Exception:  # a proxy without its object, or one that answers to any name
        return
    raise TypeError(
        f"{function}() would run nothing of {qualified_name(fn)}: it is a generator "
        "function, and nobody would iterate over its generator; pass a function that "
        "does"
    )


def check_seconds(option: str, seconds: float) -> float:
    """Refuse anything but a time to wait."""
    if not seconds > 0:
        raise ValueError(f"{option} takes seconds, more than 0, not {seconds!r}")
    return seconds


def continue_after(box: list[Any], how: str, fn: Callable[..., object]) -> object:
    """What runs in place of ``fn`` when a call follows another: that is in ``box``."""
    before = box.pop()
    if not before.done():  # another thread runs it
        wait([before])
    end, value, error = before.take_end(caught=how == "catch")
    del before  # frame cycle
    if end == CANCELLED:
        raise CancelledError
    if how == "finally_":
        complete(fn())
    elif (how == "catch") == (error is not None):
        return fn(value if error is None else error)
    try:
        if error is not None:
            raise error
    finally:
        del error
    return value
