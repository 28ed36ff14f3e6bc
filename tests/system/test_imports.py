"""What an import loads, and what it leaves to those who use it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from ..helpers.programs import HOME, PYTHON


def test_import_loads_the_standard_library_only():
    """And nothing that costs more than all the rest and that few need."""
    code = (
        "import sys; before = set(sys.modules); import wsgi_defer\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(new - set(sys.stdlib_module_names) - {'wsgi_defer',\n"
        # Of Python 3.15's traceback; made at its build, and not in those names.
        "      '_missing_stdlib_info'},\n"
        "      new & {'asyncio', 'multiprocessing', 'ctypes', 'pickle', 'queue'})"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", f"sys = __import__('sys')\n"
         f"sys.path.insert(0, {HOME!r})\n{code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split() == ["set()", "set()"]


def test_a_request_that_defers_nothing_starts_and_loads_nothing():
    """No thread, no file and no module more, so a worker is as light as it was."""
    code = f"""
        import os, sys, threading
        sys.path.insert(0, {HOME!r})
        before = set(sys.modules)
        from wsgi_defer import DeferMiddleware
        new = set(sys.modules) - before
        print(len({{name for name in new if not name.startswith("wsgi_defer")}}))
        respond = lambda status, headers: None
        def app(environ, start_response):
            start_response("200 OK", [])
            return [b"x"]
        app, loaded = DeferMiddleware(app), set(sys.modules)
        files = len(os.listdir("/dev/fd"))
        for _ in range(10):
            assert app({{"REQUEST_METHOD": "GET"}}, respond) == [b"x"]
        print(*set(sys.modules) - loaded, threading.active_count(),
              len(os.listdir("/dev/fd")) - files)
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    modules, *started = done.stdout.split()
    # 30 with Python 3.10, which has loaded others itself; 54 with 3.11, 50 with 3.13.
    assert int(modules) <= 70  # asyncio, for one, has more than 40
    assert started == ["1", "0"]


def test_import_needs_the_standard_library_only():
    """wsgi_defer.jobs loads no engine and no framework."""
    code = (
        "import sys, wsgi_defer.jobs; from wsgi_defer.jobs import Jobs; Jobs(None);"
        "print(*[m for m in sys.modules if m.split('.')[0] in"
        " {'flask', 'dbos', 'rq', 'redis', 'celery', 'procrastinate', 'asyncio'}])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == ""


def test_gevent_is_imported_by_those_who_use_it():
    """The other worker classes do not need it."""
    code = "import sys, wsgi_defer.gunicorn; print('gevent' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


def test_nobody_pays_for_it_who_does_not_use_it():
    """The module is imported by its path, and needs no subprocess."""
    code = f"""
        import sys
        sys.path.insert(0, {HOME!r})
        import wsgi_defer
        print("wsgi_defer.process" in sys.modules, "subprocess" in sys.modules)
        import wsgi_defer.process
        print("subprocess" in sys.modules)
    """
    done = subprocess.run(
        [*PYTHON, textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"] * 3


def test_the_logger_may_be_there_before_the_import():
    """Configured, or disabled, or of a class that the app has chosen. From the import
    on, logging.config disables it no more."""
    code = """
        import logging, logging.config
        class Own(logging.Logger): own = True
        logging.setLoggerClass(Own)
        log = logging.getLogger("wsgi_defer")
        log.disabled = True
        import wsgi_defer
        print(log.own, log.disabled)
        log.disabled = False
        logging.config.dictConfig({"version": 1})
        print(log.disabled, logging.getLogger("wsgi_defer") is log)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, check=True, cwd=HOME,
    )  # fmt: skip
    assert result.stdout.split() == ["True", "True", "False", "True"]
