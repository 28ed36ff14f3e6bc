"""What each process has one of."""

from __future__ import annotations

from wsgi_defer._runtime.per_process import PerProcess


def test_two_threads_are_the_first():
    """All have the same one."""
    others = []

    def make():
        if not others:
            others.append(None)
            others[0] = one()  # of the other thread, which is done first
        return object()

    one = PerProcess(make)
    assert one() is others[0] is one.made


def test_after_a_fork():
    """What is done in a child process, here."""
    forgotten = []
    one, other = PerProcess(object, forgotten.append), PerProcess(object)
    first, second = one(), other()
    one._start_anew()
    one._start_anew()
    other._start_anew()
    assert forgotten == [first]
    assert (one() is first, other() is second) == (False, False)
