"""Jobs in Flask: the response 202, and a blueprint with the status of jobs."""

from __future__ import annotations

import sys
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from flask import Blueprint, Flask, Response, current_app, jsonify, url_for
from flask.cli import ScriptInfo

from ._command.main import main
from ._jobs import Jobs
from .errors import JobsUnavailable, NotSupported

if TYPE_CHECKING:
    from flask.blueprints import BlueprintSetupState

__all__ = ["accepted", "add_command", "status_blueprint"]

_ENDPOINTS = "wsgi_defer_jobs_status"


def accepted(job_id: str, *, status_url: str | None = None) -> Response:
    """The response 202, with ``{"job_id": ..., "status_url": ...}`` and a ``Location``.

    ``status_url`` is that of the app's status blueprint, unless you give another one.
    Without either, it is null, and there is no ``Location``. Raises ``RuntimeError`` if
    you give none, and the app has blueprints of several ``Jobs``: an id does not tell
    which of them it belongs to.
    """
    if status_url is None:
        endpoints = current_app.extensions.get(_ENDPOINTS, {})
        if len(endpoints) > 1:
            raise RuntimeError(
                "this app has status blueprints of several Jobs, "
                f"{' and '.join(endpoints.values())}; tell accepted() which to use: "
                "status_url=url_for(..., job_id=job_id)"
            )
        for endpoint in endpoints.values():
            status_url = url_for(endpoint, job_id=job_id)
    response = jsonify(job_id=job_id, status_url=status_url)
    response.status_code = 202
    if status_url is not None:
        response.headers["Location"] = status_url
    return response


def status_blueprint(
    jobs: Jobs, name: str = "jobs", *, show_errors: bool = False
) -> Blueprint:
    """A blueprint with one view, ``GET /<job_id>``: the job as JSON, or a 404.

    ::

        app.register_blueprint(status_blueprint(jobs), url_prefix="/jobs")

    Anybody who knows an id sees the job's result. Guard it as any other blueprint, for
    example with ``before_request``. Ids that ``enqueue()`` makes cannot be guessed. The
    text of errors may hold private data, so it is left out unless ``show_errors``. 503
    says that the engine does not answer, 501 that it keeps no status.
    """
    blueprint = Blueprint(name, __name__)

    @blueprint.record
    def remember(state: BlueprintSetupState) -> None:
        endpoint = f"{state.name_prefix}.{state.name}.status".lstrip(".")
        state.app.extensions.setdefault(_ENDPOINTS, {})[jobs] = endpoint

    @blueprint.get("/<job_id>")
    def status(job_id: str) -> tuple[Response, int]:
        try:
            job = jobs.status(job_id)
        except JobsUnavailable:
            return _answer(503, error="the job engine is not available")
        except NotSupported:
            return _answer(501, error="the job engine does not know")
        if job is None:
            return _answer(404, error="there is no such job")
        fields = job.to_dict()
        if not show_errors:
            del fields["error"]
        return _answer(200, **fields)

    return blueprint


def add_command(app: Flask) -> None:
    """Add ``flask jobs``: the command of jobs, for the ``Jobs`` of this app."""
    if "jobs" in app.cli.commands:
        return

    @app.cli.command(
        "jobs",
        with_appcontext=False,
        short_help="Run the workers of jobs, and see what became of jobs.",
        add_help_option=False,
        context_settings={
            "ignore_unknown_options": True,
            "allow_interspersed_args": False,
        },
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def command(context: click.Context, arguments: tuple[str, ...]) -> None:
        run = partial(
            main,
            arguments,
            jobs=app.extensions["wsgi_defer_jobs"],
            program=context.command_path,
            again=_again(context),
        )
        # Outside the app context, and the scope, that Flask's command and Defer(app)
        # have around it: a worker does not end, and each job has a context of its own.
        context.exit(Context().run(run))


def _again(context: click.Context) -> list[str]:
    """What starts the same command in another process."""
    info = context.find_object(ScriptInfo)
    if info is None or info.create_app is not None:  # a program with its own commands
        return [sys.executable, *sys.argv[:1], context.command.name or ""]
    app = info.app_import_path
    return [sys.executable, "-m", "flask", *(["--app", app] if app else []), "jobs"]


def _answer(status: int, **body: Any) -> tuple[Response, int]:
    response = jsonify(body)
    response.headers["Cache-Control"] = "no-store"
    return response, status
