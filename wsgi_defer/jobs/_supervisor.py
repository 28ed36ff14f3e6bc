"""Worker processes: started, started again if they die, and stopped together."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from .._runtime import events, report
from ._watch import HUNG

# Seconds. A process that lives shorter is started again after a pause, longer each
# time. One whose server does not answer ends after 2 to 4.
SETTLED = 60.0
LONGEST_PAUSE = 5.0  # seconds
# One stop may come as two signals: a service manager signals each process, and a shell
# passes its signal on. Only a later one means impatience.
SAME_STOP = 1.0  # seconds


class Supervisor:
    """Keeps one process per slot, each running ``command --slot K --supervisor PID``.

    SIGTERM or SIGINT ends this: it passes the signal on as SIGTERM, and waits for the
    processes as long as they take. A second such signal kills them. A process that
    ends with the status ``HOPELESS`` ends all of them. They inherit those ``files``.
    """

    HOPELESS = os.EX_CONFIG

    def __init__(
        self, command: Sequence[str], slots: int, files: Sequence[int] = ()
    ) -> None:
        self._command = list(command)
        self._files = files
        self._slots = [Slot(number) for number in range(slots)]
        self._orders: list[float] = []  # times of the signals that are not yet obeyed
        self._stopped_at: float | None = None
        self._status = 0

    def run(self) -> int:
        """Supervise until all have ended; return the exit status."""
        with self._signals() as wake:
            while True:
                self._obey()
                self._reap()
                wait = None
                if self._stopped_at is None:
                    wait = self._start()
                elif not any(slot.process for slot in self._slots):
                    return self._status
                if select.select([wake], [], [], wait)[0]:
                    os.read(wake, 1024)

    @contextmanager
    def _signals(self) -> Iterator[int]:
        """A file descriptor that becomes readable when a signal comes."""
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        before = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGTERM, self._note),
                (signal.SIGINT, self._note),
                (signal.SIGCHLD, lambda number, frame: None),
            )
        }
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(waker)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._orders.append(time.monotonic())

    def _obey(self) -> None:
        while self._orders:
            at = self._orders.pop(0)
            if self._stopped_at is None:
                self._stop(at)
            elif at - self._stopped_at > SAME_STOP:
                self._status = 1
                self._send(signal.SIGKILL)

    def _stop(self, at: float) -> None:
        self._stopped_at = at
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.send_signal(number)

    def _start(self) -> float | None:
        """Start what is due; return the seconds until the next process is."""
        idle = [slot for slot in self._slots if slot.process is None]
        for slot in idle:
            if slot.wait() <= 0:
                slot.start(self._command, self._files)
        waits = [slot.wait() for slot in idle if slot.process is None]
        return max(0.0, min(waits)) if waits else None

    def _reap(self) -> None:
        for slot in self._slots:
            status = slot.reap()
            if status is None or self._stopped_at is not None:
                continue
            if status == self.HOPELESS:
                self._status = 1
                self._stop(time.monotonic())
            else:
                report.log(
                    events.JOBS_PROCESS_ENDED, "the worker process of slot %d has "
                    "ended %s; it is started again in %.1f s", slot.number,
                    in_words(status), slot.pause,
                    facts={"slot": str(slot.number), "again_in": slot.pause},
                )  # fmt: skip


class Slot:
    """The number of one worker process, and when to start it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.pause = 0.0  # seconds between its last process and the next
        self._due = 0.0  # on the monotonic clock
        self._started = 0.0
        self._short_lives = 0  # in a row

    def wait(self) -> float:
        """Seconds until its next process is to start."""
        return self._due - time.monotonic()

    def start(self, command: Sequence[str], files: Sequence[int] = ()) -> None:
        """Start its process, in a session of its own.

        So Ctrl-C in a terminal reaches only the supervisor, which passes it on once.
        """
        self._started = time.monotonic()
        more = ["--slot", str(self.number), "--supervisor", str(os.getpid())]
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, *more], start_new_session=True, pass_fds=files
        )

    def reap(self) -> int | None:
        """The status of its process, if that has ended."""
        if self.process is None:
            return None
        status = self.process.poll()
        if status is None:
            return None
        self.process = None
        now = time.monotonic()
        # A handler that hung is no reason to wait.
        short = now - self._started < SETTLED and status != HUNG
        self._short_lives = self._short_lives + 1 if short else 0
        pause = 0.1 * 2.0 ** min(self._short_lives - 1, 20) if short else 0.0
        self.pause = min(pause, LONGEST_PAUSE)
        self._due = now + self.pause
        return status


def in_words(status: int) -> str:
    """How a process ended, by the status that ``subprocess`` has for it."""
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"
