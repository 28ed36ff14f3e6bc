"""A process that ends with the one that has started it."""

from __future__ import annotations

import os
import signal

PR_SET_PDEATHSIG = 1  # of prctl(2), on Linux


def end_with(parent: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Have this process sent that signal when its parent ends, or now if it has ended.

    The kernel does it, whatever the process is doing. False where it cannot, which is
    everywhere but on Linux. To the kernel, the parent is the thread that has started
    this process.

    :param parent: its id, from the parent: asked here, it could be the next one's.
    """
    done: bool = False
    try:
        import ctypes  # some Pythons have none

        done = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        pass
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), number)
    return done
