"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from ..helpers.programs import HOME, installed

SHOP = """
    import wsgi_defer
    from wsgi_defer import DeferMiddleware, defer
    from wsgi_defer.testing import exchange, captured, eager, strict
    import pytest

    ran = []

    def fail():
        raise LookupError("the mail server is down")

    def shop(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/fail":
            defer(fail)
        else:
            defer(ran.append, path)
        start_response("200 OK", [])
        return [b"ok"]

    shop = DeferMiddleware(shop)
"""


@pytest.fixture
def run(tmp_path):
    """Run pytest on a module of tests, in a folder of its own."""

    def run(tests, *args, ini="", found=False):
        project = tmp_path / "project"
        project.mkdir(exist_ok=True)
        (project / "shop.py").write_text(textwrap.dedent(SHOP))
        tests = "from shop import *\n" + textwrap.dedent(tests)
        (project / "test_shop.py").write_text(tests)
        (project / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
        env = {**os.environ, "PYTHONPATH": HOME, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        if found:
            env["PYTHONPATH"] = os.pathsep.join([installed(tmp_path), HOME])
            del env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        else:  # without all the others, in a quarter of the time
            args = ["-p", "wsgi_defer.pytest_plugin", *args]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error",
             "--strict-config", *args],
            cwd=project, env=env,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    return run


def test_the_fixture_deferred(run):
    """Nothing runs, and the test sees what would have."""
    out = run("""
        def test_green(deferred):
            exchange(shop, "/a")
            deferred.assert_deferred(ran.append, "/a")
            assert ran == []

        def test_red(deferred):
            exchange(shop, "/b")
            deferred.assert_nothing_deferred()

        def test_after():
            exchange(shop, "/c")
            assert ran == ["/c"]
    """)
    assert "1 failed, 2 passed" in out
    assert "list.append('/b')" in out


def test_the_fixture_strict_deferred(run):
    """It is the test that fails, not its clean-up; others do not."""
    out = run("""
        def test_green(strict_deferred):
            exchange(shop, "/a")
            assert ran == ["/a"]

        def test_red(strict_deferred):
            exchange(shop, "/fail")

        def test_its_own_failure(strict_deferred):
            exchange(shop, "/fail")
            assert 1 == 2

        def test_others():
            exchange(shop, "/fail")
    """)
    assert "2 failed, 2 passed" in out
    assert "error" not in out.splitlines()[-1]
    assert "1 deferred call failed in strict()" in out
    assert "assert 1 == 2" in out
    assert out.count("Captured deferred calls call") == 1  # of the last one
    assert "shop.fail raised LookupError: the mail server is down" in out


@pytest.mark.parametrize("fails", ["fixture", "ini", "block"])
def test_what_a_red_test_shows(run, fails):
    """The line that failed, that which deferred it, and no line of this package."""
    test = {
        "fixture": "def test(strict_deferred): exchange(shop, '/fail')",
        "ini": "def test(): exchange(shop, '/fail')",
        "block": "def test():\n    with strict(): exchange(shop, '/fail')",
    }[fails]
    ini = "wsgi_defer = strict" if fails == "ini" else ""
    out = run(test, "--show-capture=no", ini=ini)
    assert '>       raise LookupError("the mail server is down")' in out
    assert "shop.fail raised LookupError: the mail server is down; from " in out
    assert ("with strict()" in out) is (fails == "block")
    assert os.path.join(HOME, "wsgi_defer") not in out
    assert len(out.splitlines()) < 40


def test_strict_everywhere(run):
    """By one line in the ini file, in classes of unittest, too."""
    out = run(
        """
        import unittest

        def test_green():
            exchange(shop, "/a")
            assert ran == ["/a"]

        def test_red():
            exchange(shop, "/fail")

        def test_captured(deferred):
            exchange(shop, "/fail")
            deferred.assert_deferred(fail)

        def test_expected():
            with pytest.raises(AssertionError), strict():
                exchange(shop, "/fail")

        def test_both(strict_deferred):
            exchange(shop, "/fail")

        class TestShop(unittest.TestCase):
            def test_green(self):
                exchange(shop, "/a")

            def test_red_in_a_class(self):
                exchange(shop, "/fail")

            def test_red_by_itself(self):
                exchange(shop, "/fail")
                self.fail("its own")
        """,
        ini="wsgi_defer = strict",
    )
    assert "4 failed, 4 passed" in out
    for red in ("test_red", "test_both", "TestShop::test_red_in_a_class"):
        assert f"FAILED test_shop.py::{red} - wsgi_defer.testing" in out
    assert "AssertionError: its own" in out


def test_strict_in_fixtures(run):
    """What a fixture's clean-up sends fails, too, as an error."""
    out = run(
        """
        @pytest.fixture
        def sends():
            yield
            exchange(shop, "/fail")

        @pytest.fixture
        def sent():
            exchange(shop, "/fail")

        def test_late(sends):
            pass

        def test_soon(sent):
            pass

        def test_next():
            pass
        """,
        ini="wsgi_defer = strict",
    )
    assert "1 failed, 2 passed, 1 error" in out
    assert "FAILED test_shop.py::test_soon" in out
    assert "ERROR test_shop.py::test_late" in out


def test_strict_and_a_clean_up_that_fails(run):
    """The session goes on, whatever is left when the test has ended."""
    out = run(
        """
        @pytest.fixture
        def breaks():
            yield
            exchange(shop, "/fail")
            raise ValueError("its own")

        def test_breaks(breaks):
            pass

        @pytest.fixture
        def late(request):
            class Late:
                @pytest.hookimpl(trylast=True)
                def pytest_runtest_logreport(self, report):
                    if report.when == "teardown" and "last" in report.nodeid:
                        plugins.unregister(self)
                        exchange(shop, "/fail")

            plugins = request.config.pluginmanager
            plugins.register(Late())

        def test_last(late):
            pass

        def test_next():
            pass
        """,
        ini="wsgi_defer = strict",
    )
    assert "INTERNALERROR" not in out
    assert "3 passed, 2 errors" in out
    assert "ValueError: its own" in out
    assert out.count("Captured deferred calls teardown") == 1
    assert "ERROR test_shop.py::test_last - 1 deferred call failed" in out


def test_an_unknown_option(run):
    """It is told, and nothing runs."""
    out = run("def test(): pass", ini="wsgi_defer = lenient")
    assert 'wsgi_defer is "strict" or nothing' in out


def test_what_is_not_used_is_not_imported(run):
    """The plugin costs next to nothing where nobody wants it."""
    out = run("""
        import sys

        def test_nothing():
            pass

        def test_hooks(request):
            plugins = request.config.pluginmanager
            assert plugins.has_plugin("wsgi_defer.pytest_plugin")
            assert not plugins.has_plugin("wsgi_defer_checks")
            assert not plugins.has_plugin("wsgi_defer_everywhere")
    """, found=True)  # fmt: skip
    assert "2 passed" in out
    code = "import sys, wsgi_defer.pytest_plugin; print(*sys.modules)"
    out = subprocess.check_output([sys.executable, "-c", code], cwd=HOME, text=True)
    assert "wsgi_defer.testing" not in out.split()


def test_fixtures_are_listed(run):
    """With what they do."""
    out = run("def test(): pass", "--fixtures")
    assert "deferred -- " in out
    assert "What the test's requests defer; none of it runs." in out
    assert "strict_deferred -- " in out
