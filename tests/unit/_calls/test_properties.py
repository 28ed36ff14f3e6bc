"""Order, names and cancelling, against a model, for programs that hypothesis writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_defer import DeferMiddleware, Outcome, defer, deferring, forget

from ...helpers.client import get, text_app

# It would take twice as long, and find no line that other tests do not.
pytestmark = pytest.mark.no_cover

NAMES = st.sampled_from(["a", "b", "c", None])
STEPS = st.one_of(
    st.tuples(st.just("defer"), NAMES, st.sampled_from(["plain", "always", "failure"])),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("rename"), st.integers(0, 20), NAMES),
    st.tuples(st.just("forget"), NAMES),
)


class Model:
    """What ought to run: calls as [number, name, gate, alive]."""

    def __init__(self):
        self.calls = []

    def step(self, step):
        kind, *rest = step
        if kind == "defer":
            self.calls.append([len(self.calls), *rest, True])
        elif kind == "cancel" and rest[0] < len(self.calls):
            self.calls[rest[0]][3] = False
        elif kind == "rename" and rest[0] < len(self.calls):
            self.calls[rest[0]][1] = rest[1]
        elif kind == "forget":
            for call in self.calls:
                if call[1] == rest[0]:
                    call[3] = False

    def expected(self, ok):
        alive = [call for call in self.calls if call[3]]
        last = {call[1]: call[0] for call in alive}
        return [
            number
            for number, name, gate, _ in alive
            if (name is None or last[name] == number)
            and (gate == "always" or (gate == "plain") == ok)
        ]


class Real:
    """The same program with real calls."""

    def __init__(self, ran):
        self.calls, self.ran = [], ran

    def step(self, step):
        kind, *rest = step
        if kind == "defer":
            call = defer(self.ran.append, len(self.calls)).named(rest[0])
            if rest[1] == "always":
                call.always()
            elif rest[1] == "failure":
                call.on_failure()
            self.calls.append(call)
        elif kind == "cancel" and rest[0] < len(self.calls):
            self.calls[rest[0]].cancel()
        elif kind == "rename" and rest[0] < len(self.calls):
            self.calls[rest[0]].named(rest[1])
        elif kind == "forget" and rest[0] is not None:
            forget(rest[0])


@given(st.lists(STEPS, max_size=20), st.booleans())
def test_the_model_and_the_middleware_agree(steps, ok):
    """Whatever the view does, the same calls run, in the same order, and add up."""
    model, ran = Model(), []
    steps = [step for step in steps if step != ("forget", None)]

    def view():
        real = Real(ran)
        for step in steps:
            real.step(step)
            model.step(step)

    status = "200 OK" if ok else "500 Oops"
    environ = {}
    get(DeferMiddleware(text_app(view, status)), environ=environ)
    scope = environ["wsgi_defer.scope"]
    assert ran == model.expected(ok)
    assert scope.finished == len(ran)
    assert scope.finished + scope.skipped == scope.registered == len(model.calls)


@given(st.recursive(st.just([]), st.lists, max_leaves=15))
def test_nested_calls_run_breadth_first(tree):
    """Each call runs after those registered before it, however deep they nest."""
    ran, expected = [], []

    def call(subtree, path):
        ran.append(path)
        for number, below in enumerate(subtree):
            defer(call, below, (*path, number))

    with deferring() as scope:
        defer(call, tree, ())
    queue = [(tree, ())]
    while queue:
        subtree, path = queue.pop(0)
        expected.append(path)
        queue += [(below, (*path, n)) for n, below in enumerate(subtree)]
    assert ran == expected
    assert scope.finished == len(expected)


@given(st.none() | st.integers(100, 599), st.booleans(), st.booleans())
def test_outcome_ok(status, raised, delivered):
    """ok says: below 400, nothing raised; whether it arrived is another matter."""
    outcome = Outcome(status, ValueError() if raised else None, delivered)
    assert outcome.ok is (not raised and (status is None or status < 400))
