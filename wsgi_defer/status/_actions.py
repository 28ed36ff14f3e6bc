"""What the page does to jobs, and the proof that a person on the page asked."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .._runtime import report
from .._runtime.secret import SECRET
from ..errors import DeferError
from ..jobs.errors import JobsUnavailable
from ._words import safe

if TYPE_CHECKING:
    from ..jobs import Jobs

LASTS = 8 * 3600  # seconds from the making of a form to its use
LONGEST = 4096  # bytes of a form

# What the page says afterwards, by a word in the URL, so that no text comes from there.
NOTES = {
    "cancelled": "The job is cancelled.",
    "retried": "The job is queued again.",
    "retried-all": "The failed jobs are queued again.",
}


class RefusedError(Exception):
    """The action was not done: an HTTP status, and a sentence for the person."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why


def token(environ: dict[str, Any]) -> str:
    """What a form carries: when it was made, signed for its user."""
    return _signed(str(int(time.time())), environ)


def act(environ: dict[str, Any], jobs: Jobs) -> str:
    """Do what the form asks, and log who asked; return a key of ``NOTES``.

    Raises ``RefusedError``.
    """
    _check_origin(environ)
    form = _form(environ)
    _check_token(form.get("token", ""), environ)
    doing, job_id = form.get("action", ""), form.get("job", "")
    actions: dict[str, tuple[Callable[[], object], str]] = {
        "cancel": (lambda: jobs.cancel(job_id), "cancelled"),
        "retry": (lambda: jobs.retry(job_id), "retried"),
        "retry-all": (jobs.retry_all, "retried-all"),
    }
    if doing not in actions:
        raise RefusedError("400 Bad Request", "The form names no action of this page.")
    action, note = actions[doing]
    # Before it is done, as it may be done in part. A warning, so that the line is there
    # without any configuration of logging.
    what = f"job {safe(job_id, 100)}" if job_id else "all failed jobs"
    report.log(
        logging.WARNING, "status page: %s asks for %s of %s", who(environ), doing, what
    )
    try:
        action()
    except JobsUnavailable as error:
        raise RefusedError("503 Service Unavailable", str(error)) from error
    except DeferError as error:
        raise RefusedError("409 Conflict", str(error)) from error
    return note


def who(environ: dict[str, Any]) -> str:
    """Who asks, for the log: the user whom the server or the app has authenticated."""
    user = environ.get("REMOTE_USER")
    if user:
        return safe(user, 100)
    return safe(environ.get("REMOTE_ADDR") or "a client on a unix socket", 100)


def _signed(moment: str, environ: dict[str, Any]) -> str:
    text = f"wsgi_defer.status {moment} {environ.get('REMOTE_USER') or ''}"
    signature = hmac.new(SECRET, text.encode(errors="replace"), "sha256")
    return f"{moment}.{signature.hexdigest()}"


def _check_token(given: str, environ: dict[str, Any]) -> None:
    moment = given.partition(".")[0]
    known = _signed(moment, environ).encode()
    if not hmac.compare_digest(given.encode(errors="replace"), known):
        raise RefusedError(
            "403 Forbidden",
            "This form was not made by this app, or before its last restart. Go back, "
            "reload the page, and try again. If that does not help, the workers share "
            "no secret: use the hooks of wsgi_defer.gunicorn, or preload_app.",
        )
    if time.time() - int(moment) > LASTS:
        raise RefusedError(
            "403 Forbidden", "This form is too old. Go back, and reload the page."
        )


def _check_origin(environ: dict[str, Any]) -> None:
    """Refuse what a page of another site sends; clients that do not tell have a token.

    Only the hosts are compared: behind a proxy, the scheme here may be another one.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE")
    origin = environ.get("HTTP_ORIGIN")
    if site is not None:
        same = site == "same-origin"
    elif origin is not None:
        same = origin.partition("://")[2] == environ.get("HTTP_HOST", "")
    else:
        same = True
    if not same:
        raise RefusedError(
            "403 Forbidden",
            "This form was sent from another site. If it was not, a proxy changes "
            "Host: let it pass on the client's (nginx: proxy_set_header Host "
            "$http_host).",
        )


def _form(environ: dict[str, Any]) -> dict[str, str]:
    if not environ.get("CONTENT_TYPE", "").startswith(
        "application/x-www-form-urlencoded"
    ):
        raise RefusedError("415 Unsupported Media Type", "Send a form, urlencoded.")
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = -1
    if not 0 <= length <= LONGEST:
        raise RefusedError("413 Content Too Large", "The form is too large.")
    body = environ["wsgi.input"].read(length).decode("ascii", "replace")
    return {name: values[0] for name, values in parse_qs(body).items()}
