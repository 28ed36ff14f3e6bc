"""What others promise for work after the response: a test for each promise kept here.

The lines were numbered in a study of other projects' sources, tests and documentation:
L is Laravel, R Rack 3 and Puma, S Starlette, FastAPI, Litestar, Quart and Sanic, N
Next.js, P Pogo, I Pionia, X Django, flask-executor, PSGI and gunicorn. A test that
proves one carries its number, as ``@pytest.mark.promise("L7")``. Those that are not
kept, or optional, have their reasons in docs/compared.md.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__)
TESTS = HERE.parents[1]
PAGE = HERE.parents[2] / "docs" / "compared.md"
STUDIED = {"L": 48, "R": 14, "S": 14, "N": 15, "P": 13, "I": 7, "X": 8}

KEPT = {
    "L1": "a call does not run before the response, and once after it",
    "L2": "it runs if the status is below 400, and not otherwise",
    "L3": "always: whatever the status, and that can be taken back",
    "L4": "the final status counts, after error handlers and middleware",
    "L5": "what is skipped is gone, and not kept for the next request",
    "L6": "calls without a name are never taken for the same",
    "L7": "a name may be given later; the one at run time counts",
    "L8": "of one name, the last registered runs, at its own place",
    "L9": "a name can be forgotten; an unknown one is no error",
    "L10": "the calls that wait can be counted, looked at and taken out",
    "L11": "who counts what will run counts each name once",
    "L12": "calls run in the order of registration",
    "L13": "a call that fails is reported, and the others run",
    "L14": "when the calls have run, none is left",
    "L15": "what a call defers runs in the same drain, at any depth",
    "L16": "to look at the calls while they run repeats none and drops none",
    "L17": "a job that runs inline leaves the calls of the request alone",
    "L18": "a command's calls run if it succeeds, or if they want failures",
    "L19": "so do a job's, and its end does not run those of others",
    "L20": "jobs that enqueue jobs after the response do not nest without end",
    "L21": "tests may have calls run at once; those from before still wait",
    "L22": "after that, all is as it was, and those from before run",
    "L24": "nothing of one request is seen by the next one of its worker",
    "L25": "tests ask what was deferred, how often, with what, or nothing",
    "L28": "jobs may run at once in tests, and later as before",
    "L29": "results of several functions keep the keys of their dict",
    "L30": "and the order of their list, whichever is first",
    "L31": "a child process that exits is an error with its exit code",
    "L32": "an exception comes back with its class and arguments",
    "L33": "a time limit reaches the task in the child process",
    "L34": "several functions after the response; their results are dropped",
    "L48": "jobs run after the response without an engine, or instead of one",
    "S1": "the body is sent before the first call starts, with middleware, too",
    "S2": "plain functions and coroutine functions",
    "S3": "several calls of one response run in order, each of them",
    "S6": "calls run although the client has left",
    "S8": "an error that the framework answers is asked for by its status",
    "S9": "a response of the view's own does not lose the calls",
    "S10": "body, calls, teardown; what comes late still runs",
    "S12": "the end of the process waits for a time; tests wait for all",
    "S13": "calls can be cancelled by name, and end with their worker in time",
    "S14": "a slow call need not take the place of requests, and has limits",
    "N1": "nothing runs until the response is closed",
    "N2": "a call that wants it runs if the view raises",
    "N3": "after a redirect, a 403, a 404, an exception: if the call wants it",
    "N4": "what a stream defers runs once the stream has ended",
    "N5": "nested calls, also of a coroutine, and when others have begun",
    "N7": "each failure is told, also if who hears of one fails",
    "N8": "a response that is never closed loses no call, and hangs nothing",
    "N9": "where there is no request, the line that defers raises",
    "N10": "a call sees the context of its line",
    "N11": "a call cannot change the response; the error names it",
    "N12": "calls run when a stream is cut off by its client",
    "N13": "the server's end waits for what is pending",
    "N14": "of several middlewares, the outermost response counts",
    "N15": "a call may have a time limit",
    "P1": "a named pool is that pool, and not the default one",
    "P2": "an unknown pool is an error, whatever it is asked",
    "P3": "a task needs no name of its pool to be awaited",
    "P4": "a task that is too late is ended, and holds up nobody",
    "P6": "a negative timeout is an error, and the task is still there",
    "P7": "a cancelled task leaves its pool, and ends if it can be ended",
    "P8": "the error of a task reaches who awaits it",
    "P9": "tasks that nobody awaited end with their request",
    "P10": "max_wait is for waiting and running, from submit() on",
    "P11": "two tasks of 250 ms take no half second",
    "P12": "pools that make no sense are refused when the app starts",
    "I1": "the view goes on, the reply leaves, and then the call runs",
    "I2": "a call with a result is as late as one without",
    "I3": "to ask for the result inside the request runs it early, once",
    "I4": "a failure has handlers, and what runs either way",
    "I5": "a job is answered by 202 and an id; accepted is not done",
    "I6": "without an engine, jobs run after the response, with a warning",
    "I7": "in tests, jobs run at once if the test says so",
    "X2": "tests see nested calls, too",
    "X3": "a job tells its id, state, times, attempts, result and error",
    "X4": "what cannot be enqueued is refused in that line",
    "X5": "hooks for queued, started and finished",
    "X6": "threads have the app's and the request's context, with teardown",
    "X7": "an order to stop waits for the calls that run",
}
# To be moved into KEPT when their tests are there: wsgi_defer.cache, and the hook
# ``response_finished``. Until then, nobody misses a test of these.
COMING = {
    "L36": "a value that is not there is computed in the view",
    "L37": "a fresh one is returned, and nothing deferred",
    "L38": "a stale one is returned, and renewed once, later",
    "L39": "asked for twice in a request, it is still renewed once",
    "L40": "after the response, the value and its time are new",
    "L41": "one that is too old is computed in the view",
    "L42": "it is not renewed if somebody else is at it",
    "L43": "nor if somebody else has done so meanwhile",
    "L44": "it may be renewed whatever the status",
    "L45": "one key in two namespaces is two values",
    "L46": "a cache without locks is reported, and the client has its answer",
    "L47": "a time without its value is none",
    "R1": "the key of environ has a list of callables; the lint says if not",
    "R2": "anything that can be called will do, and is called once",
    "R3": "with environ, status, headers and error",
    "R4": "environ is the one that the app got",
    "R6": "also when making or sending the response failed",
    "R7": "one that raises does not stop the others",
    "R8": "nor does it write a second response",
    "R9": "after the body's close()",
    "R10": "where a server has no such key, the middleware does it; once",
    "R11": "a connection that the app takes over is let go once",
    "R12": "what a kill has lost is told",
}


def numbers_in(path):
    """Those that the tests of a file carry."""
    text = path.read_text()
    for test in ast.walk(ast.parse(text)) if "mark.promise(" in text else ():
        if not isinstance(test, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for each in test.decorator_list:
            if isinstance(each, ast.Call) and ast.unparse(each.func).endswith(
                "mark.promise"
            ):
                assert test.name.startswith("test_"), (path, test.name)
                yield from map(ast.literal_eval, each.args)


def in_order(numbers):
    return sorted(numbers, key=lambda number: (number[0], int(number[1:])))


def test_each_that_is_kept_has_a_test():
    """And no test has a number that is not here."""
    carried = {number for path in TESTS.rglob("*.py") for number in numbers_in(path)}
    assert in_order(set(KEPT) - carried) == []
    assert in_order(carried - set(KEPT) - set(COMING)) == []


def test_each_other_one_has_its_reason():
    """In a row of docs/compared.md, and each number has one row at most."""
    rows = re.findall(r"^\| ([A-Z]\d+) \| (.+) \| (.+) \|$", PAGE.read_text(), re.M)
    told = [number for number, _, _ in rows]
    studied = {
        f"{peer}{n}" for peer, last in STUDIED.items() for n in range(1, last + 1)
    }
    assert len(studied) == 119
    assert in_order(set(told)) == in_order(told)
    assert set(told) <= studied
    assert in_order(studied - set(KEPT) - set(COMING) - set(told)) == []
    assert not set(KEPT) & set(COMING)
    assert set(KEPT) | set(COMING) <= studied
