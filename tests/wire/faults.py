"""The cells of the table that are not right, each with its one reason.

A key names set-ups, shapes and protocols, ``*`` stands for any. A cell that becomes
right must be taken off; of those that cannot be helped, the very words are asserted.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

# Reasons that begin so are proven, too: the same request with nothing deferred does it.
OWN = "with nothing deferred, too: "

UWSGI_RAISES = OWN + "uWSGI sends nothing when the app raises before its first byte"
UWSGI_UNFRAMED = OWN + (
    "uWSGI's --http11-socket sends a body of no known length without any framing, and "
    "closes when its keep-alive ends, 4 seconds later"
)
UWSGI_KEEPS = OWN + "uWSGI's --http11-socket does not heed Connection: close"
GRANIAN_RAISES = OWN + "granian ends a response whose body raised as if it were whole"
APACHE_CUTS = OWN + "embedded mod_wsgi keeps the connection of a body that broke off"

LAST_CHUNK = OWN + (
    "it sends the last chunk of no body in answer to HEAD, if the app gives no length"
)
CHEROOT_RAISES = OWN + "cheroot sends the head that it has, and no error page"

UNREACHABLE: dict[tuple[str, str, str], tuple[str, str]] = {
    (
        "uwsgi-http uwsgi-threads uwsgi-mount uwsgi-router nginx-uwsgi",
        "raise raise_late raise_first",
        "1.0 close keep",
    ): ("broken", UWSGI_RAISES),
    ("uwsgi-router-keepalive", "raise raise_late raise_first", "1.0 close"): (
        "broken",
        UWSGI_RAISES,
    ),
    ("uwsgi-router-keepalive", "raise raise_late raise_first", "keep"): (
        "late broken",
        UWSGI_RAISES,
    ),
    ("uwsgi-http11", "raise raise_late raise_first", "1.0"): ("broken", UWSGI_RAISES),
    ("uwsgi-http11", "raise raise_late raise_first", "close keep"): (
        "late broken",
        UWSGI_RAISES,
    ),
    (
        "uwsgi-http11",
        "generator iterator lazy write file memory_file raise_middle",
        "close keep",
    ): ("late", UWSGI_UNFRAMED),
    (
        "uwsgi-http11",
        "list_length list empty 204 304 404 file_length head head_empty head_file "
        "big_late",
        "close",
    ): ("eof-late", UWSGI_KEEPS),
    ("uwsgi-http11", "refused", "close"): ("eof-late", "as for every other response"),
    ("waitress", "head_empty", "close keep"): ("broken", LAST_CHUNK),
    ("bjoern", "head_empty", "keep"): ("broken", LAST_CHUNK),
    ("cheroot", "raise_first", "1.0 close keep"): ("broken", CHEROOT_RAISES),
    ("granian", "raise_first", "1.0 close keep"): ("broken", GRANIAN_RAISES),
    ("mod_wsgi-embedded", "raise_middle", "keep"): ("late", APACHE_CUTS),
}


# They may take the whole body before the client has it, or is gone; nothing tells the
# app in time. So with these, what outcome.delivered says then is not judged.
BUFFERING = "nginx* waitress a2wsgi-uvicorn"

# When the body raises in the middle, it ends the connection, and may drop what it has
# not yet sent: with nothing deferred, in 1 of 20 to 1 of 2 requests not even the head
# arrives. So what has come may be any beginning of the response, or nothing.
DROPPING = "granian"

# It reads a file of no known length, and gives the others to the kernel.
READING = "bjoern"

# They close each connection, and can be asked whether they have. So a call after an
# error begins when the client has the whole of the error page.
CLOSING = "gunicorn*-sync* nginx-*-sync* werkzeug*"


def expected(setup, shape, protocol):
    """The fault words of that cell and the reason; ``("ok", "")`` for most cells."""
    return find(UNREACHABLE, setup, shape, protocol) or ("ok", "")


def is_unreachable(setup, shape, protocol):
    """Whether nobody can help that cell."""
    return find(UNREACHABLE, setup, shape, protocol) is not None


def find(faults, *cell):
    """What that dict has of the cell, or None."""
    for patterns, found in faults.items():
        if all(map(matches, cell, patterns)):
            return found
    return None


def matches(name, patterns):
    """Whether one of the patterns is the name's."""
    return any(fnmatchcase(name, pattern) for pattern in patterns.split())
