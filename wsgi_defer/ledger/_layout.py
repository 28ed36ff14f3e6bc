"""What is where on a page of the ledger. Places are in words of eight bytes.

A page is a head, lanes, the last minute, the last failures, a record for each name, and
an entry for each call that waits or runs. Memory that was never touched takes no room,
and to read it would allocate it. So nothing is read past what the head says is used.
"""

from __future__ import annotations

import struct

from .._calls.options import MAX_CALLS, MAX_WAITING

PAGES = 256  # workers at a time
WORD = 8

# The head
UNNAMED = 0  # calls without an entry, as there was no room
LAST = 1  # the last entry that was ever used
SEQUENCE = 2  # odd while what the journal says is being done; see Recorder
JOURNAL = 3  # six pairs: a place on this page, and what it is to hold
PID = 15  # 0 if the page is free
STARTED = 16  # here and below: seconds of time.monotonic()
STOPPING = 17  # when it was told to stop; 0 if it was not
AFTER = 18  # when the response ended whose calls run
REQUESTS = 19
NAMES = 20  # records that are used
SLOW = 21
FAILURES_EVER = 22  # failures that were ever noted
IDLE = 23  # when a call ended
SCRATCH = 24  # where the journal puts what a call does not have
HEAD = 32

# The head of the last page only, which is the master's
USED = 25  # pages that were ever used
QUEUE_LONGEST = 26
ALL_BUSY = 27  # how often all workers were found busy
BUSY_NOW = 28  # whether they were the last time

# Requests at a time: when each began; or, if it has ended, when it did, negative
LANES = HEAD
LANES_AT_ONCE = 64

# A ring of seconds: which one it is, time spent in requests, and after responses
MINUTE = LANES + LANES_AT_ONCE
RING = 64
IN_REQUEST, AFTER_RESPONSE = 1, 2

# A ring of failures
FAILURES = 512
MOST_FAILURES = 50
NAME = 168  # bytes; what is longer is cut
REQUEST = 64
FAILURE = struct.Struct(f"dQ{NAME}s{REQUEST}s200s{REQUEST}s")  # ... error, origin, id
FAILURE_WORDS = 64

# A record for each name: the name, the results, and the two histograms
RECORDS = FAILURES + MOST_FAILURES * FAILURE_WORDS
MOST_NAMES = 128  # and one record more, for all others
RECORD_WORDS = 64
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
          10.0, 30.0, 60.0)  # fmt: skip
BUCKETS = len(BOUNDS) + 1
FINISHED, FAILED, SKIPPED, LOST = range(4)
WAITED = 4
WAITED_SUM = WAITED + BUCKETS  # nanoseconds
RAN = WAITED_SUM + 1
RAN_SUM = RAN + BUCKETS
FIGURES = RAN_SUM + 1  # words
FIGURES_AT = NAME // WORD  # in the record

# The entries: state, when it was registered, when it started, name, request
ENTRY = struct.Struct(f"Qdd{NAME}s{REQUEST}s")
ENTRY_WORDS = ENTRY.size // WORD
# Calls at a time, of one worker: those that wait for the background thread, the scope
# that it was given last, the one that it runs, and a request that defers meanwhile.
ENTRIES = MAX_WAITING + 3 * MAX_CALLS
FIRST_ENTRY = -(-(RECORDS + (MOST_NAMES + 1) * RECORD_WORDS) // 512) * 512
PAGE = FIRST_ENTRY + -(-ENTRIES * ENTRY_WORDS // 512) * 512

# States of an entry: running in its request, or after the response
FREE, WAITING, RUNNING, RUNNING_AFTER, CANCELLED = range(5)


def packed(text: str) -> bytes:
    """The text for a field of a struct, which cuts it."""
    return text.encode(errors="replace")


def text_of(field: bytes) -> str:
    """The text of a field."""
    return field.partition(b"\0")[0].decode(errors="replace")
