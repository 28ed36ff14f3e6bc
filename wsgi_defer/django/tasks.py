"""Backends of Django's tasks (Django 6.0 and later): after the response, and as jobs.

::

    TASKS = {"default": {"BACKEND": "wsgi_defer.django.tasks.DeferBackend"}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache, wraps
from traceback import format_exception
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.tasks import (
    Task,
    TaskContext,
    TaskResult,
    TaskResultStatus,
    task_backends,
)
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import TaskError
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json
from django.utils.module_loading import import_string

from .._calls.defer import defer
from .._calls.scope import get_current
from .._runtime.stop_orders import is_order_to_stop
from ..errors import ScopeClosedError
from ..jobs import Job, Jobs
from ._connections import tended_connections

HANDLER = "django.task"
TRYING = ("attempts", "backoff", "max_backoff", "time_limit")
STATES = {
    "queued": TaskResultStatus.READY,
    "scheduled": TaskResultStatus.READY,
    "running": TaskResultStatus.RUNNING,
    "done": TaskResultStatus.SUCCESSFUL,
    "failed": TaskResultStatus.FAILED,
    "cancelled": TaskResultStatus.FAILED,  # Django has no word for it
}
WORKER = "wsgi_defer"


class DeferBackend(BaseTaskBackend):  # type: ignore[misc]
    """Runs tasks after the response, in this process, at most once.

    As ``defer()``: only if the response is a success. Where no request is, it runs
    them at once. The result is told by the object that ``enqueue()`` returns, and only
    in this process.
    """

    supports_async_task = True
    supports_priority = True  # of one process's calls, none overtakes another

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        """Run it after the response. Raises ``InvalidTask``, ``TooManyCallsError``."""
        self.validate_task(task)
        result = new_result(task, args, kwargs, self.alias)
        set_on(result, enqueued_at=timezone.now())
        scope = get_current()

        @wraps(task.func)  # so that the log names it
        def run() -> None:
            self._run(result, raising=True)

        deferred = False
        if scope is not None and not scope.closed:
            try:
                defer(run)
                deferred = True
            except ScopeClosedError:
                pass  # another thread has just ended it
        task_enqueued.send(type(self), task_result=result)
        if not deferred:
            self._run(result, raising=False)
        return result

    def _run(self, result: TaskResult, raising: bool) -> None:
        error = run_task(result, type(self), last=True)
        if raising and error is not None:
            raise error


class JobsBackend(BaseTaskBackend):  # type: ignore[misc]
    """Stores tasks as jobs, which ``manage.py wsgi_defer_worker`` runs.

    In a request, a task is stored just before the response, if that is a success.
    ``OPTIONS`` are ``url`` and the others of ``wsgi_defer.jobs.Jobs``, and those of its
    handlers: ``attempts``, ``backoff``, ``max_backoff`` and ``time_limit``. Only
    functions that are tasks run.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        if "url" not in self.options:
            raise ImproperlyConfigured(
                f"TASKS[{alias!r}] needs OPTIONS with a url, such as "
                "sqlite:////srv/app/jobs.db"
            )
        self.attempts: int = self.options.get("attempts", 1)
        self.supports_get_result = not str(self.options["url"]).startswith("amqp")
        self.jobs = jobs_of(alias, json.dumps(self.options, sort_keys=True))

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        """Store it. Raises ``InvalidTask``, and as ``jobs.enqueue()``."""
        self.validate_task(task)
        result = new_result(task, args, kwargs, self.alias)
        set_on(result, enqueued_at=timezone.now())
        payload = {
            "task": task.module_path,
            "args": result.args,
            "kwargs": result.kwargs,
            "queue": task.queue_name,
            "run_after": task.run_after and task.run_after.isoformat(),
            "enqueued_at": result.enqueued_at.isoformat(),
        }
        delay = seconds_to(task.run_after)
        self.jobs.enqueue(HANDLER, payload, job_id=result.id, delay=delay)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """What became of it. Raises ``TaskResultDoesNotExist``, also while it is held
        for the response, or if its function is not a task any more; and as
        ``jobs.status()``."""
        job = self.jobs.status(result_id)
        if job is None or job.payload is None:
            raise TaskResultDoesNotExist(result_id)
        try:
            return self._result_of(job, json.loads(job.payload))
        except UnknownTask as error:
            raise TaskResultDoesNotExist(result_id) from error

    def _result_of(self, job: Job, payload: Mapping[str, Any]) -> TaskResult:
        task = task_at(payload["task"], self).using(
            queue_name=payload["queue"], run_after=moment_of(payload["run_after"])
        )
        result = new_result(task, payload["args"], payload["kwargs"], self.alias)
        set_on(
            result,
            id=job.id,
            status=STATES[job.state],
            enqueued_at=moment_of(payload["enqueued_at"]),
            started_at=job.started_at,
            last_attempted_at=job.started_at,
            finished_at=job.finished_at,
            _return_value=job.result,
        )
        result.worker_ids.extend([WORKER] * job.attempts)
        if job.error is not None:
            result.errors.append(error_of(job.error))
        return result

    def work(self, payload: Mapping[str, Any], job: Job) -> Any:
        """Run a stored task, in a worker; return its result. Raises ``TaskFailed``."""
        result = self._result_of(job, payload)
        result.worker_ids.clear()
        result.worker_ids.extend([WORKER] * (job.attempts - 1))
        error = run_task(result, type(self), last=job.attempts >= self.attempts)
        if error is not None:
            raise TaskFailed(path_of(type(error)), error) from error
        return result._return_value


@cache
def jobs_of(alias: str, given: str) -> Jobs:
    """The one of this process: Django makes a backend in each thread."""
    options: dict[str, Any] = json.loads(given)
    trying = {name: options.pop(name) for name in TRYING if name in options}
    observers = getattr(settings, "WSGI_DEFER", {}).get("observers", ())
    jobs = Jobs(options.pop("url"), observers=observers, **options)

    @jobs.handler(HANDLER, pass_job=True, **trying)
    def work(payload: Mapping[str, Any], job: Job) -> Any:
        return task_backends[alias].work(payload, job)

    # The worker has no request around a task.
    jobs.init_app(SimpleNamespace(extensions={}, app_context=tended_connections))
    return jobs


class UnknownTask(ValueError):  # noqa: N818 - as Django's TaskResultDoesNotExist
    """What is stored names a function that is not there, or not a task."""


class TaskFailed(Exception):  # noqa: N818 - its text is what the job's error says
    """A task has raised: the path of the exception's class, and its text."""

    def __init__(self, path: str, error: BaseException) -> None:
        super().__init__(f"{path}: {error}")


def run_task(result: TaskResult, sender: type, *, last: bool) -> BaseException | None:
    """Run it in this thread, and note how it ends; return what it raised.

    Only an order to stop is raised. ``last``: no attempt follows.
    """
    now = timezone.now()
    running = TaskResultStatus.RUNNING
    started = result.started_at or now
    set_on(result, status=running, started_at=started, last_attempted_at=now)
    result.worker_ids.append(WORKER)
    task_started.send(sender, task_result=result)
    task = result.task
    context = [TaskContext(task_result=result)] if task.takes_context else []
    try:
        value = task.call(*context, *result.args, **result.kwargs)
        set_on(result, _return_value=normalize_json(value))
    except BaseException as error:
        if is_order_to_stop(error):
            raise
        text = "".join(format_exception(error))
        told = TaskError(exception_class_path=path_of(type(error)), traceback=text)
        result.errors.append(told)
        if last:
            failed = TaskResultStatus.FAILED
            set_on(result, status=failed, finished_at=timezone.now())
            task_finished.send(sender, task_result=result)  # its log shows the error
        else:
            set_on(result, status=TaskResultStatus.READY)
        return error
    set_on(result, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now())
    task_finished.send(sender, task_result=result)
    return None


def new_result(task: Task, args: Any, kwargs: Any, alias: str) -> TaskResult:
    """A task that has not run. Raises ``TypeError`` for what is not JSON."""
    return TaskResult(
        task=task,
        id=uuid4().hex,
        status=TaskResultStatus.READY,
        enqueued_at=None,
        started_at=None,
        last_attempted_at=None,
        finished_at=None,
        args=args,
        kwargs=kwargs,
        backend=alias,
        errors=[],
        worker_ids=[],
    )


def set_on(result: TaskResult, **values: Any) -> None:
    """Change a result, which is frozen for everybody but a backend."""
    for name, value in values.items():
        object.__setattr__(result, name, value)


def task_at(path: str, backend: JobsBackend) -> Task:
    """The task of that name. Raises ``UnknownTask`` for anything else: what is stored
    must not choose which functions run."""
    try:
        found = import_string(path)
    except ImportError as error:
        raise UnknownTask(f"there is no task {path!r}: {error}") from error
    if not isinstance(found, Task):
        raise UnknownTask(f"{path!r} is not a task, and does not run")
    return found.using(backend=backend.alias)


def path_of(kind: type) -> str:
    """As ``TaskError.exception_class_path`` has it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def error_of(text: str) -> TaskError:
    """What is stored of an error: its class and its text. The worker's log has the
    traceback."""
    kind, _, rest = text.partition(": ")
    path = f"builtins.{kind}"
    if kind == TaskFailed.__name__:
        path = rest.partition(": ")[0]
        text = rest
    return TaskError(exception_class_path=path, traceback=text)


def seconds_to(moment: Any) -> float:
    """From now on; 0 for none, or one that is past."""
    if moment is None:
        return 0.0
    now = timezone.now()
    if timezone.is_naive(moment) and timezone.is_aware(now):
        now = timezone.make_naive(now)
    return max(float((moment - now).total_seconds()), 0.0)


def moment_of(text: str | None) -> datetime | None:
    """What ``isoformat()`` has made of it."""
    return text and datetime.fromisoformat(text)  # type: ignore[return-value]
