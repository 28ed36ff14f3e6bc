"""What each process has one of."""

from __future__ import annotations

import os

from wsgi_defer._per_process import PerProcess


def test_one_in_each_process():
    """It is made on first use; a child process forgets that, and makes its own."""
    pids, forgotten = [], []

    def make():
        pids.append(os.getpid())
        return object()

    one = PerProcess(make, forgotten.append)
    unused = PerProcess(make, forgotten.append)
    assert one.made is None
    first = one()
    assert one() is one.made is first
    pid = os.fork()
    if not pid:
        fine = forgotten == [first] and one() is not first
        os._exit(0 if fine and pids[1:] == [os.getpid()] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert one() is first
    assert (unused.made, forgotten) == (None, [])


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
