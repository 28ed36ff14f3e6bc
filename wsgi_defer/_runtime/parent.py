"""A process that ends with the one that started it."""

from __future__ import annotations

import os
import signal

PR_SET_PDEATHSIG = 1  # of prctl(2), on Linux


def end_with(parent: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send this process the signal when its parent ends, or now if it has ended.

    The kernel does so, whatever the process is doing. Returns False if it cannot, as
    everywhere but on Linux. To the kernel, the parent is the thread that started this
    process.

    :param parent: the parent's id, which the parent must pass: asked for here, it could
        already be that of another process.
    """
    done: bool = False
    try:
        import ctypes  # some Pythons have none

        done = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        pass
    if os.getppid() != parent:  # it had ended before prctl()
        os.kill(os.getpid(), number)
    return done
