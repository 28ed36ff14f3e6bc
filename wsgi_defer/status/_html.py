"""The page as a document; its sections are in other files.

Style and script are in the document, and the policy names their hashes: nothing is
fetched from elsewhere, and nothing else can run.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from html import escape as _escape
from pathlib import Path

from ._words import NOTHING, safe, utc

STYLE = Path(__file__).with_name("page.css").read_text()
SCRIPT = Path(__file__).with_name("page.js").read_text()
EACH = 5  # seconds between two refreshes of a browser without JavaScript


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(STYLE)}",
        f"script-src {_hash(SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",  # the empty icon: browsers would ask the app for one
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)


def escape(text: object) -> str:
    """The app's text, for an element or an attribute in double quotes."""
    return _escape(safe(text))


def document(title: str, heading: str, sections: Iterable[str], refresh: bool) -> str:
    """The whole page, live. ``title`` and ``heading`` are plain text."""
    if refresh:
        meta = f'<noscript><meta http-equiv="refresh" content="{EACH}"></noscript>'
        words = f'Anew each {EACH} seconds. <a href="?refresh=no">Stop that</a>'
    else:
        meta, words = "", f'<a href="?">Refresh each {EACH} seconds</a>'
    return f"""\
{_head(title, meta)}
<body>
<header>
<h1>{escape(heading)}</h1>
<p id="live" role="status"></p>
<button id="pause" type="button" hidden>Pause</button>
<noscript><p>{words}</p></noscript>
</header>
<main>
{"".join(sections)}</main>
<footer>
<p>Times are UTC. The same for programs: <a href="?format=json">JSON</a>,
<a href="?json&amp;full">JSON in PHP-FPM&rsquo;s names</a>,
<a href="?format=openmetrics">OpenMetrics</a>.</p>
</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def message(title: str, text: str) -> str:
    """A page that only says something, with a way back."""
    return f"""\
{_head(title, "")}
<body>
<main>
<h1>{escape(title)}</h1>
<p>{escape(text)}</p>
<p><a href="?">Back to the page</a></p>
</main>
</body>
</html>
"""


def _head(title: str, more: str) -> str:
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
{more}
<style>{STYLE}</style>
</head>"""


def section(identity: str, title: str, *content: str) -> str:
    """A part of the page under a heading, which screen readers list."""
    return (
        f'<section id="{identity}" aria-labelledby="{identity}-title">\n'
        f'<h2 id="{identity}-title">{title}</h2>\n{"".join(content)}</section>\n'
    )


def table(
    identity: str, caption: str, heads: Iterable[str], rows: Iterable[str], none: str
) -> str:
    """A table that scrolls sideways where it has no room, by keyboard, too.

    A head that ends in ``#`` is of a column of numbers. ``none``: what to say if there
    are no rows.
    """
    body = "\n".join(rows)
    if not body:
        return f'<p class="none">{none}</p>\n'
    head = "".join(
        f'<th scope="col" class="n">{each[:-1]}</th>'
        if each.endswith("#")
        else f'<th scope="col">{each}</th>'
        for each in heads
    )
    return (
        f'<div id="{identity}-table" class="scroll" tabindex="0" role="group" '
        f'aria-label="{caption}">'
        f"<table><caption>{caption}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
    )


def code(name: str) -> str:
    """A dotted name of the app's, which may go on a new line after a dot."""
    return f"<code>{escape(name).replace('.', '.<wbr>')}</code>"


def time_of(at: float | datetime | None) -> str:
    """A moment in UTC, for people and programs."""
    if at is None:
        return NOTHING
    text = utc(at)
    return f'<time datetime="{text.replace(" ", "T")}Z">{text}</time>'
