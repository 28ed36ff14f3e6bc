"""What can be wrong with a deployment, and what to change."""

from __future__ import annotations

from enum import Enum
from typing import Any


class Fault(Enum):
    """What is wrong, as the client has seen it, after so many seconds."""

    NO_MIDDLEWARE = "no middleware"
    BROKEN = "no complete answer after {:.1f} s"
    LATE = "the response was complete after {:.1f} s: it waited for the call"
    END_LATE = "the end of the stream came after {:.1f} s: it waited for the call"
    NEXT_WAITS = "the next request on the connection waited for the call, {:.1f} s"
    OTHERS_WAIT = "another user's request waited for the call, {:.1f} s"
    LOST = "lost"
    NOT_TOLD = "not told"
    SLOW_CLIENT = "a slow client: the worker still waited for it after {:.1f} s"
    NOT_NAMED = "not named"


OUTERMOST = (
    "make DeferMiddleware the outermost middleware: one outside of it reads the whole "
    "response before it sends any, or does not close the body"
)
INLINE = "take inline=True out of DeferMiddleware(...): this server keeps connections"
WORKER = (
    "use the worker class wsgi_defer.gunicorn.ThreadWorker, or GeventWorker, or "
    "inline=False"
)
WORKERS = (
    "start more workers, as each is busy while its calls run; or inline=False, or "
    'when_busy="thread", if the app is thread-safe'
)


def change(fault: Fault, facts: dict[str, Any]) -> str:
    """What to change, for a server of which these facts are known."""
    match fault:
        case Fault.NO_MIDDLEWARE:
            return "application = DeferMiddleware(app), with doctor_app inside of it"
        case Fault.BROKEN:
            return "see the error logs of the proxy and the server"
        case Fault.LATE:
            return OUTERMOST
        case Fault.END_LATE | Fault.NEXT_WAITS | Fault.OTHERS_WAIT:
            return _not_to_wait(fault, facts)
        case Fault.LOST:
            return (
                "look for a worker that was killed: the log names the call, if "
                "gunicorn.conf.py has wsgi_defer.gunicorn.install(globals())"
            )
        case Fault.NOT_TOLD:
            return OUTERMOST
        case Fault.SLOW_CLIENT:
            return (
                "proxy_buffering on; in nginx, with proxy_max_temp_file_size above 0, "
                "and no X-Accel-Buffering: no"
            )
        case Fault.NOT_NAMED:
            return (
                "in gunicorn.conf.py: from wsgi_defer.gunicorn import install; "
                "install(globals())"
            )


def _not_to_wait(fault: Fault, facts: dict[str, Any]) -> str:
    if facts["inline"] and facts["multithread"]:
        return INLINE
    if not facts["multithread"]:
        return OUTERMOST if fault is Fault.END_LATE else WORKERS
    if facts["gunicorn"] and not facts["our_worker"]:
        return WORKER
    return "inline=False"
