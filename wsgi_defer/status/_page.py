"""The WSGI app: who is let in, what is asked for, and the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from ..ledger import CONTENT_TYPE, Snapshot, openmetrics, record, snapshot
from . import _html, _sections
from ._actions import NOTES, RefusedError, act, token
from ._allow import Allow, check_allow
from ._board import Reader
from ._jobs_section import JobsSection
from ._json import to_fpm, to_json
from ._totals import totals

if TYPE_CHECKING:
    from ..jobs import Jobs

OK = "200 OK"
HTML = "text/html; charset=utf-8"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
REFUSED = (
    "You may not see this page: the function that the app gave to "
    "StatusPage(allow=...) says no to this request.\n"
)


class Answer(NamedTuple):
    """What is sent: the status, the content's type, the content, more headers."""

    status: str
    kind: str
    body: str
    more: dict[str, str] = {}  # noqa: RUF012 - nobody changes it


class StatusPage:
    """A WSGI app that shows what the workers do, and what became of calls and jobs.

    ::

        from wsgi_defer.status import StatusPage, loopback_only

        page = StatusPage(allow=loopback_only)

    Below the path where it is mounted: the page itself; ``?format=json``; ``?json`` and
    ``?json&full``, as PHP-FPM's; ``/metrics``, for Prometheus. It shows no arguments.

    :param allow: a function of the WSGI environ that returns whether this client may
        see the page; without it, construction raises ``TypeError``. The others get 403.
    :param jobs: the ``Jobs`` to show. A worker asks their engine once a second at
        most.
    :param actions: let those who see the page cancel and retry jobs. Each action is
        logged with who asked for it.

    Thread-safe. Its own requests defer nothing.
    """

    def __init__(
        self,
        *,
        allow: Allow | None = None,
        jobs: Jobs | None = None,
        actions: bool = False,
    ) -> None:
        self._allow = check_allow(allow)
        if actions and jobs is None:
            raise TypeError("StatusPage(actions=True) needs jobs=, the Jobs to act on")
        self._jobs = jobs
        self._actions = actions
        self._board = None if jobs is None else Reader(jobs)
        self._most_active = 0  # that this process has seen
        record()  # from now on, and not from the first look at the page on

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        answer = self._answer(environ)
        body = answer.body.encode()
        headers = {
            "Content-Type": answer.kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": _html.POLICY,
            "X-Content-Type-Options": "nosniff",
            # With no-referrer, browsers do not say from which site a form comes.
            "Referrer-Policy": "same-origin" if self._actions else "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            **answer.more,
        }
        start_response(answer.status, list(headers.items()))
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _answer(self, environ: dict[str, Any]) -> Answer:
        if not self._allow(environ):
            return Answer("403 Forbidden", TEXT, REFUSED)
        path = environ.get("PATH_INFO", "")
        if path not in ("", "/", "/metrics"):
            return Answer("404 Not Found", TEXT, "The status page has no such path.\n")
        method = environ["REQUEST_METHOD"]
        acts = self._actions and path != "/metrics"
        if method == "POST" and acts:
            return self._act(environ)
        if method not in ("GET", "HEAD"):
            allowed = "GET, HEAD, POST" if acts else "GET, HEAD"
            text = f"This path takes {allowed}.\n"
            return Answer("405 Method Not Allowed", TEXT, text, {"Allow": allowed})
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        return self._show(environ, path, {name: of[-1] for name, of in query.items()})

    def _show(
        self, environ: dict[str, Any], path: str, query: dict[str, str]
    ) -> Answer:
        shown = snapshot()
        self._most_active = max(self._most_active, totals(shown).active)
        form = "openmetrics" if path == "/metrics" else query.get("format", "html")
        if "json" in query:
            fpm = to_fpm(shown, "full" in query, self._most_active)
            return Answer(OK, JSON, json.dumps(fpm))
        if form == "json":
            board = None if self._board is None else self._board()
            return Answer(OK, JSON, json.dumps(to_json(shown, board)))
        if form == "openmetrics":
            return Answer(OK, CONTENT_TYPE, openmetrics(shown, self._jobs))
        if form == "html":
            return Answer(OK, HTML, self._html(environ, shown, query))
        text = "There are ?format=html, json and openmetrics.\n"
        return Answer("400 Bad Request", TEXT, text)

    def _html(
        self, environ: dict[str, Any], shown: Snapshot, query: dict[str, str]
    ) -> str:
        of = totals(shown)
        name = shown.name or "Workers"
        note = NOTES.get(query.get("note", ""), "")
        sections = [
            f'<p class="note" role="status">{note}</p>\n' if note else "",
            _sections.now(shown, of),
            _sections.workers(shown, of),
            _sections.calls(shown),
            _sections.failures(shown),
        ]
        if self._board is not None:
            signed = token(environ) if self._actions else None
            sections.append(str(JobsSection(self._board(), signed)))
        title = f"{name}: {of.active} of {of.workers} busy"
        return _html.document(title, name, sections, query.get("refresh") != "no")

    def _act(self, environ: dict[str, Any]) -> Answer:
        assert self._jobs is not None
        assert self._board is not None
        try:
            note = act(environ, self._jobs)
        except RefusedError as error:
            page = _html.message("That was not done", error.why)
            return Answer(error.status, HTML, page)
        self._board.forget()
        # The page again, by GET, so that a reload does nothing twice.
        where = {"Location": f"?note={note}#jobs"}
        return Answer("303 See Other", TEXT, "", where)
