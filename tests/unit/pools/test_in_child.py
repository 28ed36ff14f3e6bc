"""What runs in a child of a process pool, without the child."""

from __future__ import annotations

import pickle
import threading

from wsgi_defer.pools import _in_child

from ...helpers.pools import fail, raise_hostile, raise_odd, same


def test_what_runs_in_a_child():
    """The loop of a child, here."""

    def answer(fn, *args):
        data = _in_child._answer(pickle.dumps((fn, args, {})), {})
        return data[:1], pickle.loads(data[1:])

    assert answer(same, 1) == (b"R", 1)
    kind, (error, text) = answer(fail, LookupError(0))
    assert (kind, type(error), error.args) == (b"E", LookupError, (0,))
    assert "in fail" in text
    assert answer(raise_odd)[1][0].kind == "OddError"
    assert answer(raise_hostile)[1][0].text == "its text cannot be had"
    locked = _in_child._answer(pickle.dumps((threading.Lock, (), {})), {})
    assert locked == b"UTypeError in lock"
