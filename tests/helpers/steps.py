"""An exception at each step at which a signal's handler could raise one."""

from __future__ import annotations

import dis
import itertools
import os
import sys

# CPython looks for signals after these, and only there.
LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD", "JUMP_ABSOLUTE")


class Interrupted(BaseException):
    """Raised by nobody else."""


def interrupt():
    """As a signal's handler that raises."""
    raise Interrupted


def each_step_of(*files, handler=interrupt):
    """Context managers, the first of which calls the handler at the first step that is
    made inside it in one of these files, the next at the second; up to one that has
    not come to its step. Files are known by the beginnings of their paths."""
    names = {}  # of the instructions of a code, by their places
    for number in itertools.count(1):
        step = _Step(number, files, handler, names)
        yield step
        if not step.at:
            return


class _Step:
    def __init__(self, number, files, handler, names):
        self.at = ""  # the file, line and function where it was called
        self._left = number
        self._files = files
        self._handler = handler
        self._names = names
        self._was_at = {}  # the instruction of a frame

    def __enter__(self):
        self._before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 asks here
        sys.settrace(self)

    def __exit__(self, *raised):
        sys.settrace(self._before)
        self._was_at.clear()

    def __call__(self, frame, event, argument):
        code = frame.f_code
        if not code.co_filename.startswith(self._files):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if self._was_at.get(frame, "").startswith(LOOKS):
                self._left -= 1
                if not self._left:
                    self._raise(frame)
            self._was_at[frame] = self._name(frame)
        return self

    def _name(self, frame):
        code = frame.f_code
        if code not in self._names:
            found = dis.get_instructions(code)
            self._names[code] = {each.offset: each.opname for each in found}
        return self._names[code].get(frame.f_lasti, "")

    def _raise(self, frame):
        file = os.path.basename(frame.f_code.co_filename)
        self.at = f"{file}:{frame.f_lineno} {frame.f_code.co_name}"
        sys.settrace(None)
        self._handler()
