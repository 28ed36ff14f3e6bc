"""What every pool does: tests for each module that says, by its fixture ``name``, of
which of the POOLS.
"""

from __future__ import annotations

import concurrent.futures
import traceback

import pytest

from wsgi_defer import RemoteError, ScopeClosedError, deferring, gather, pool

from .pools import POOLS, fail, fail_later, same, same_later
from .waiting import PATIENCE


@pytest.fixture
def function(name):
    """A task that returns its ``value``."""
    return same_later if name == "coroutines" else same


@pytest.fixture
def failing(name):
    """A task that raises its ``error``."""
    return fail_later if name == "coroutines" else fail


def test_submit(scope, name, function):
    """The result comes back, falsy ones, too; it is a real future."""
    futures = [pool(name).submit(function, value) for value in (7, 0, None, "")]
    assert [future.result() for future in futures] == [7, 0, None, ""]
    assert all(isinstance(future, concurrent.futures.Future) for future in futures)
    assert [future.done() for future in futures] == [True] * 4
    assert not any(future.running() or future.cancelled() for future in futures)


def test_wait_and_as_completed(scope, name, function):
    """concurrent.futures works with them."""
    futures = {pool(name).submit(function, value) for value in range(5)}
    done, rest = concurrent.futures.wait(futures, PATIENCE)
    assert (done, rest) == (futures, set())
    completed = concurrent.futures.as_completed(futures, PATIENCE)
    assert sorted(future.result() for future in completed) == [0, 1, 2, 3, 4]


def test_map_returns_in_input_order(scope, name, function):
    """All at once, for any number of iterables, lazily read."""
    assert list(pool(name).map(function, range(9))) == list(range(9))
    assert list(pool("threads").map(pow, [2, 3, 4], [3, 2])) == [8, 9]


def test_arguments_all_belong_to_the_function(scope, name, function):
    """Keyword arguments, too."""
    assert pool(name).submit(function, value="x").result() == "x"


@pytest.mark.promise("L32")
@pytest.mark.parametrize("args", [(), ("text", 0), (False,), ("",)])
def test_l32_an_exception_has_its_class_and_arguments(scope, name, failing, args):
    """L32: and arguments that are falsy survive."""
    error = pool(name).submit(failing, LookupError(*args)).exception()
    assert type(error) is LookupError
    assert error.args == args


@pytest.mark.promise("P8")
def test_p8_the_error_text_reaches_the_caller(scope, name, failing):
    """P8: and the traceback with it, or its text, down to the line that raised."""
    with pytest.raises(ValueError, match="boom") as caught:
        pool(name).submit(failing, ValueError("boom")).result()
    assert f"in {failing.__name__}" in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), OSError()])
def test_exceptions_of_all_kinds(scope, name, function, failing, error):
    """They come back, and the pool goes on."""
    raised = pool(name).submit(failing, error).exception()
    if name == "processes" and isinstance(error, SystemExit):  # it is to end no worker
        assert type(raised) is RemoteError
        assert raised.args == ("SystemExit", "3")
    else:
        assert (type(raised), raised.args) == (type(error), error.args)
    assert pool(name).submit(function, 1).result() == 1


def test_a_timeout_error_of_the_task_is_its_own(scope, name, failing):
    """It is not taken for one of waiting."""
    with pytest.raises(TimeoutError) as caught:
        pool(name).submit(failing, TimeoutError("of a socket")).result(PATIENCE)
    assert type(caught.value) is TimeoutError


def test_p5_a_result_may_be_asked_for_twice(scope, name, function):
    """P5: other than in Pogo, as with all futures."""
    future = pool(name).submit(function, [1])
    assert future.result() is future.result()


@pytest.mark.promise("P3")
def test_p3_each_task_is_its_own(scope, name, function):
    """P3: a handle needs no name of its pool to be awaited."""
    other = pool("threads").submit(same, "other")
    future = pool(name).submit(function, "one")
    assert future is not other
    assert (future.result(), other.result()) == ("one", "other")


def test_callbacks(scope, ran, name, function):
    """They are called once, also when it has ended before."""
    future = pool(name).submit(function, 1)
    concurrent.futures.wait([future])
    future.add_done_callback(lambda future: ran.append(future.result()))
    assert ran == [1]


def test_after_the_request(name, function):
    """A handle that was kept is of no use."""
    with deferring(pools=POOLS):
        kept = pool(name)
    with pytest.raises(ScopeClosedError, match=r"submit\(\)"):
        kept.submit(function, 1)


@pytest.mark.promise("P6")
def test_p6_a_negative_timeout(scope, name, function):
    """P6: it is an error, and does not consume the task."""
    future = pool(name).submit(function, 1)
    for ask in (future.result, future.exception):
        with pytest.raises(ValueError, match="0 or more, not -1"):
            ask(-1)
    assert future.result() == 1
    with pytest.raises(ValueError, match="0 or more"):
        gather([int], timeout=-0.1)
