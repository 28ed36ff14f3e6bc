"""The pytest plugin of wsgi_defer: two fixtures, and an option of the ini file.

It imports ``wsgi_defer.testing`` only where it is used, as pytest loads its plugins at
each start.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import Captured, Strict

_strict_of = pytest.StashKey["list[Strict]"]()  # an item's blocks, the outermost first


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``wsgi_defer``."""
    parser.addini(
        "wsgi_defer",
        'what becomes of deferred calls: "strict" puts strict() of wsgi_defer.testing '
        "around every test, so that a call that fails fails its test",
        default="",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Put ``strict()`` around every test, if the option says so."""
    option = str(config.getini("wsgi_defer")).strip()
    if option not in ("", "strict"):
        raise pytest.UsageError(f'wsgi_defer is "strict" or nothing, not {option!r}')
    if option:
        config.pluginmanager.register(_StrictEverywhere(), "wsgi_defer_everywhere")
        _check_from_now_on(config)


@pytest.fixture
def deferred() -> Iterator[Captured]:
    """What the test's requests defer; none of it runs. See ``captured()``."""
    from .testing import captured

    with captured() as calls:
        yield calls


@pytest.fixture
def strict_deferred(request: pytest.FixtureRequest) -> Iterator[Strict]:
    """A deferred call that fails fails the test. See ``strict()``."""
    from .testing import strict

    _check_from_now_on(request.config)
    with strict() as block:
        blocks = request.node.stash.setdefault(_strict_of, [])
        blocks.append(block)
        yield block


def _check_from_now_on(config: pytest.Config) -> None:
    """Not before somebody wants it: it costs something at each test."""
    if not config.pluginmanager.has_plugin("wsgi_defer_checks"):
        config.pluginmanager.register(_Checks(), "wsgi_defer_checks")


class _StrictEverywhere:
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Around fixtures, too, so that ``deferred`` is inside."""
        from .testing import strict

        ended = False
        try:
            with strict() as block:
                item.stash[_strict_of] = [block]
                result = yield
                ended = True
        except AssertionError as failed:
            if not ended:
                raise
            # After its clean-up: an error that goes up here would end the session.
            late = pytest.TestReport(
                nodeid=item.nodeid, location=item.location,
                keywords=dict.fromkeys(item.keywords, 1), outcome="failed",
                longrepr=str(failed), when="teardown",
            )  # fmt: skip
            item.ihook.pytest_runtest_logreport(report=late)
        return result


class _Checks:
    """Fails the test itself, and not its clean-up after it.

    A test that fails by itself does so with its own error, and shows the others.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        __tracebackhide__ = True
        return (yield from _checked(item, "call"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        __tracebackhide__ = True
        return (yield from _checked(item, "teardown"))


def _checked(item: pytest.Item, when: str) -> Generator[None, Any, Any]:
    __tracebackhide__ = True
    try:
        result = yield
    except BaseException:
        for block in item.stash.get(_strict_of, ()):
            try:
                block.check()
            except AssertionError as failed:
                item.add_report_section(when, "deferred calls", str(failed))
        raise
    for block in item.stash.get(_strict_of, ()):
        block.check()
    return result
