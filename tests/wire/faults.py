"""The cells of the table that are not right, each with its one reason.

A key names set-ups, shapes and protocols, ``*`` stands for any. A cell that becomes
right must be taken off; of those that cannot be helped, the very words are asserted.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache

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

UNREACHABLE: dict[tuple[str, str, str], tuple[str, str]] = {
    ("uwsgi-http nginx-uwsgi", "raise raise_late raise_first", "1.0 close keep"): (
        "broken",
        UWSGI_RAISES,
    ),
    ("uwsgi-http11", "raise raise_late raise_first", "1.0"): ("broken", UWSGI_RAISES),
    ("uwsgi-http11", "list_length 404 file_length big_late", "close"): (
        "eof-late",
        UWSGI_KEEPS,
    ),
    (
        "uwsgi-http11",
        "generator iterator lazy write empty file memory_file raise_middle",
        "close",
    ): ("late", UWSGI_UNFRAMED),
    ("uwsgi-http11", "raise raise_late raise_first", "close keep"): (
        "late broken",
        UWSGI_RAISES,
    ),
    (
        "uwsgi-http11",
        "generator iterator lazy write empty file memory_file raise_middle",
        "keep",
    ): ("late", UWSGI_UNFRAMED),
    ("granian", "raise_first", "1.0 close keep"): ("broken", GRANIAN_RAISES),
    ("mod_wsgi-embedded", "raise_middle", "keep"): ("late", APACHE_CUTS),
}

# Wrong only because the library has no part for that server yet. To be emptied.
PART = "the library has no part for this server yet"
GTHREAD_AND_GEVENT = (
    " ".join(
        f"gunicorn{release}-{worker}"
        for release in ("", "-25", "-23", "-22", "-21", "-20")
        for worker in ("gthread", "gevent")
    )
    + " gunicorn-gthread-tls gunicorn-gthread-unix"
    + " gunicorn-gevent-tls gunicorn-gevent-unix"
)

PENDING: dict[tuple[str, str, str], tuple[str, str]] = {
    (
        GTHREAD_AND_GEVENT + " gevent-pywsgi",
        "list_length list empty 204 304 404 file_length head head_empty "
        "head_file big_late refused",
        "1.0",
    ): ("eof-late", PART),
    (
        GTHREAD_AND_GEVENT + " gevent-pywsgi",
        "generator iterator lazy write file memory_file",
        "1.0",
    ): ("late", PART),
    (
        GTHREAD_AND_GEVENT + " gevent-pywsgi",
        "list_length list generator iterator lazy write empty 204 304 404 "
        "file_length file memory_file head head_empty head_file big_late "
        "refused",
        "close",
    ): ("eof-late", PART),
    (
        GTHREAD_AND_GEVENT + " nginx-1.1-gthread gevent-pywsgi",
        "list_length list generator iterator lazy write empty 204 304 404 "
        "file_length file memory_file head head_empty head_file big_late "
        "refused",
        "keep",
    ): ("blocked", PART),
    (
        "gunicorn-gthread-h2",
        "list_length list generator iterator lazy write empty 204 304 404 "
        "file_length file memory_file head head_empty head_file big_late refused",
        "h2",
    ): ("blocked", PART),
    (
        "nginx-1.0-gthread wsgiref cheroot",
        "generator iterator lazy write file memory_file",
        "1.0 close keep",
    ): ("late", PART),
    ("uwsgi-http uwsgi-http11", "list_length list 404 big_late refused", "1.0"): (
        "eof-late",
        PART,
    ),
    (
        "uwsgi-http uwsgi-http11",
        "generator iterator lazy write empty 204 304 memory_file head "
        "head_empty head_file",
        "1.0",
    ): ("late", PART),
    ("uwsgi-http uwsgi-http11 nginx-uwsgi", "file", "1.0"): ("late", PART),
    ("uwsgi-http uwsgi-http11", "file_length", "1.0"): ("eof-late", PART),
    ("uwsgi-http11", "file_length", "keep"): ("blocked", PART),
    ("uwsgi-http", "list_length list 404 file_length big_late refused", "close"): (
        "eof-late",
        PART,
    ),
    (
        "uwsgi-http",
        "generator iterator lazy write empty 204 304 file memory_file head "
        "head_empty head_file",
        "close keep",
    ): ("late", PART),
    ("uwsgi-http", "list_length list 404 file_length big_late refused", "keep"): (
        "blocked",
        PART,
    ),
    ("uwsgi-http11", "list refused", "close"): ("eof-late", PART),
    ("uwsgi-http11", "204 304 head head_empty head_file", "close keep"): ("late", PART),
    ("uwsgi-http11", "list_length list 404 big_late refused", "keep"): (
        "blocked",
        PART,
    ),
    (
        "nginx-uwsgi",
        "generator iterator lazy write empty 204 304 memory_file head "
        "head_empty head_file",
        "1.0 keep",
    ): ("late", PART),
    (
        "nginx-uwsgi",
        "generator iterator lazy write empty 204 304 file memory_file head "
        "head_empty head_file",
        "close",
    ): ("late", PART),
    ("nginx-uwsgi", "file", "keep"): ("late", PART),
    (
        "wsgiref",
        "list_length list empty 204 304 404 file_length head head_empty "
        "head_file big_late refused",
        "1.0 close keep",
    ): ("eof-late", PART),
    (
        "waitress",
        "list_length list 404 file_length file memory_file big_late refused",
        "1.0 close",
    ): ("eof-late", PART),
    (
        "waitress",
        "generator iterator lazy write empty 204 304 head head_empty head_file",
        "1.0 close",
    ): ("late", PART),
    (
        "waitress",
        "list_length list 404 file_length file memory_file big_late refused",
        "keep",
    ): ("blocked", PART),
    (
        "waitress",
        "generator iterator lazy write empty 204 304 head head_file",
        "keep",
    ): ("late", PART),
    ("waitress", "head_empty", "keep"): ("late broken", PART),
    (
        "cheroot",
        "list_length list empty 204 304 404 file_length head head_empty "
        "head_file big_late refused",
        "1.0 close",
    ): ("eof-late", PART),
    ("cheroot", "raise_first", "1.0 close keep"): ("broken lost", PART),
    (
        "cheroot",
        "list_length list empty 204 304 404 file_length head head_file big_late "
        "refused",
        "keep",
    ): ("blocked", PART),
    ("cheroot", "head_empty", "keep"): ("eof-late", PART),
    (
        "bjoern",
        "list_length list generator iterator lazy empty 204 304 404 file_length "
        "file memory_file head head_file big_late refused",
        "keep",
    ): ("blocked", PART),
    ("bjoern", "head_empty", "keep"): ("blocked broken", PART),
    ("granian", "generator iterator lazy file memory_file", "1.0 close keep"): (
        "late",
        PART,
    ),
    (
        "mod_wsgi-daemon mod_wsgi-embedded",
        "list_length list 404 file_length big_late refused",
        "1.0 close",
    ): ("eof-late", PART),
    (
        "mod_wsgi-daemon mod_wsgi-embedded",
        "generator iterator lazy write empty 204 304 file memory_file head "
        "head_empty head_file",
        "1.0 close keep",
    ): ("late", PART),
    (
        "mod_wsgi-daemon mod_wsgi-embedded",
        "list_length list 404 file_length big_late",
        "keep",
    ): ("blocked", PART),
    ("mod_wsgi-daemon mod_wsgi-embedded", "refused", "keep"): ("eof-late", PART),
}

# Set-ups whose files are read by Python when something is deferred; to be emptied, too.
PENDING_SENDFILE = "uwsgi-http uwsgi-http11 nginx-uwsgi bjoern mod_wsgi-*"


@cache
def expected(setup, shape, protocol):
    """The fault words of that cell and the reason; ``("ok", "")`` for most cells."""
    return (
        find(UNREACHABLE, setup, shape, protocol)
        or find(PENDING, setup, shape, protocol)
        or ("ok", "")
    )


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
