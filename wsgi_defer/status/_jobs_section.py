"""The section on jobs, and the forms that act on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..jobs._job import STATES
from ._board import LISTED, Board
from ._html import code, escape, section, table, time_of
from ._words import NOTHING, count, utc

if TYPE_CHECKING:
    from ..jobs import Job

WAITING = ("queued", "scheduled")


class JobsSection:
    """Renders a board. Without a token, there are no forms."""

    def __init__(self, board: Board, token: str | None) -> None:
        self._board = board
        self._token = token

    def __str__(self) -> str:
        problems = [
            f'<p class="note bad">{escape(text)}</p>\n' for text in self._board.problems
        ]
        return section(
            "jobs", "Jobs", *problems, self._counts(), self._due(), self._failed(),
            self._recent(),
        )  # fmt: skip

    def _counts(self) -> str:
        rows = (
            f'<tr><th scope="row">{code(name)}</th>'
            + "".join(_number(states.get(state, 0), state) for state in STATES)
            + "</tr>"
            for name, states in self._board.counts.items()
        )
        heads = ["Name", *(f"{state.capitalize()}#" for state in STATES)]
        return table("counts", "Jobs by name and state", heads, rows,
                     "There are no jobs.")  # fmt: skip

    def _due(self) -> str:
        rows = [
            f'<tr><th scope="row">{code(due.name)}</th>'
            f"<td>{escape(due.every)}</td><td>{time_of(due.at)}</td></tr>"
            for due in self._board.due
        ]
        heads = ("Name", "Every", "Next time")
        return _part("Periodic", "due", "When periodic jobs are due", heads, rows)

    def _failed(self) -> str:
        rows = [
            f'<tr id="failed-{escape(job.id)}">{_begin(job)}'
            f"<td>{time_of(job.finished_at)}</td>"
            f'<td class="text bad">{escape(job.error or NOTHING)}</td>'
            f"{self._cell('retry', job, 'Retry')}</tr>"
            for job in self._board.failed
        ]
        return _part(
            "Failed", "failed", f"The jobs that failed last, {LISTED} at most",
            self._with_action("Id", "Name", "Attempts#", "Failed at", "Error"), rows,
            self._form("retry-all", "", "Retry all failed jobs"),
        )  # fmt: skip

    def _recent(self) -> str:
        rows = [
            f'<tr id="recent-{escape(job.id)}">{_begin(job)}'
            f"<td>{_state(job)}</td><td>{time_of(job.enqueued_at)}</td>"
            f"<td>{escape(job.progress)}</td>"
            f'<td class="text">{escape(job.error or NOTHING)}</td>'
            f"{self._cell('cancel', job, 'Cancel')}</tr>"
            for job in self._board.recent
        ]
        heads = self._with_action(
            "Id", "Name", "Attempts#", "State", "Enqueued", "Progress", "Error"
        )
        caption = f"The latest jobs, {LISTED} at most"
        return _part("Latest", "recent", caption, heads, rows)

    def _with_action(self, *heads: str) -> tuple[str, ...]:
        return heads if self._token is None else (*heads, "Action")

    def _cell(self, action: str, job: Job, word: str) -> str:
        if self._token is None:
            return ""
        if action == "cancel" and job.state not in WAITING:
            return f"<td>{NOTHING}</td>"
        return f"<td>{self._form(action, job.id, word)}</td>"

    def _form(self, action: str, job_id: str, word: str) -> str:
        if self._token is None:
            return ""
        job = escape(job_id)
        label = f' aria-label="{word} job {job}"' if job_id else ""
        return (
            '<form method="post">'
            f'<input type="hidden" name="token" value="{self._token}">'
            f'<input type="hidden" name="job" value="{job}">'
            f'<button name="action" value="{action}"{label}>{word}</button></form>'
        )


def _part(
    title: str, identity: str, caption: str, heads: Iterable[str], rows: list[str],
    form: str = "",
) -> str:  # fmt: skip
    """A table under its own heading, or nothing if it has no rows."""
    if not rows:
        return ""
    return f"<h3>{title}</h3>\n{form}{table(identity, caption, heads, rows, '')}"


def _begin(job: Job) -> str:
    return (
        f'<th scope="row">{code(job.id)}</th>'
        f'<td>{code(job.name)}</td><td class="n">{job.attempts}</td>'
    )


def _state(job: Job) -> str:
    due = f" <small>until {utc(job.due_at)}</small>" if job.state == "scheduled" else ""
    kind = "bad" if job.state == "failed" else ""
    return f'<span class="{kind}">{job.state}</span>{due}'


def _number(number: int, state: str) -> str:
    kind = "bad" if state == "failed" and number else ""
    return f'<td class="n {kind}">{count(number)}</td>'
