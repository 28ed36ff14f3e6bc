"""Jobs: handlers by name, and the work that an engine keeps for them."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta, tzinfo
from importlib import import_module
from typing import Any, Protocol, TypeVar

from .._calls.aside import Apart
from .._calls.block import calls_run_after
from .._calls.invoke import complete
from .._calls.options import DEFAULTS, Options
from .._calls.scope import current_scope
from .._runtime.forks import no_fork_leaves
from ..observers._job_observer import JobAttempt, JobObserver
from ..observers._observer import Observer
from ..observers._observers import Observers
from ._asking import check_number
from ._carrier import observed, parted
from ._enqueuing import LONGEST_DELAY, Enqueuing
from ._job import Handler, Job, check_name, to_json
from ._progress import Progress, Teller, complain
from ._schedule import Schedule, zone_of
from ._scope import HandlerScope
from ._testing import Captured, Capturing, Eager
from ._time_limit import run_within
from ._worklog import WorkLog
from .engines._engine import Engine, engine_for
from .engines.memory import InProcess
from .errors import JobsUnavailable, UnknownHandlerError

logger = logging.getLogger("wsgi_defer")
F = TypeVar("F", bound=Callable[..., Any])
CONFIG = "WSGI_DEFER_JOBS_"  # what names in an app's configuration start with
MOST_ATTEMPTS = 1000  # the waits between them are stored with each job


class FlaskApp(Protocol):
    """What ``init_app()`` needs of a Flask app."""

    extensions: dict[str, Any]

    def app_context(self) -> AbstractContextManager[Any]:
        """The context in which handlers run."""


class Jobs(Enqueuing):
    """Handlers, and the engine that stores the work for them.

    ::

        jobs = Jobs("sqlite:////srv/shop/jobs.db")

        @jobs.handler("mail.welcome", attempts=5, backoff=60)
        def welcome(payload):
            send_mail(payload["to"])

        def view():
            job_id = jobs.enqueue("mail.welcome", {"to": "ada@example.org"})

    :param url: where the engine keeps jobs: ``sqlite:///file`` (DBOS, no server),
        ``redis://`` (RQ), ``amqp://`` (Celery), ``postgresql://`` (Procrastinate),
        ``dbos+postgresql://``; ``None`` runs them in this process, at most once,
        unless ``init_app()`` finds a URL in the app's configuration.
    :param max_payload: bytes of JSON that one job may have.
    :param queue: the name of the queue; apps that share a server have one each.
    :param results: for ``amqp://`` only: the URL of a result backend of Celery, such as
        ``redis://``, where it keeps what ``status()`` tells.
    :param observers: see jobs, as ``JobObserver`` says; those that are an ``Observer``
        hear of the calls that handlers defer, too.

    Thread-safe. Nothing is opened before the first use, and each process of a
    pre-fork server opens its own connections. Raises ``ValueError`` for a URL that no
    engine can use, and ``ImportError`` if the engine's package is missing.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        max_payload: int = 256 * 1024,
        queue: str = "wsgi_defer",
        results: str | None = None,
        observers: Iterable[Observer | JobObserver] = (),
    ) -> None:
        self._use_engine(url, max_payload, queue, results)
        self._observers = tuple(observers)
        self._defaults = DEFAULTS
        heard = [
            each
            for each in self._observers
            if isinstance(each, Observer) or not isinstance(each, JobObserver)
        ]
        if heard:
            self._defaults = DEFAULTS._replace(observers=Observers(heard))
        self._own_url = url is not None
        self._own = {"max_payload": max_payload, "queue": queue, "results": results}
        self._configured: dict[str, Any] = {}
        self.worklog = WorkLog()
        self._handlers: dict[str, Handler] = {}
        self._schedules: dict[str, Schedule] = {}
        self._instead: Engine | None = None  # in tests
        self._around: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._extensions: dict[str, Any] = {}  # of a Flask app

    def _use_engine(
        self, url: str | None, max_payload: int, queue: str, results: str | None
    ) -> None:
        if results is not None and not (url or "").startswith("amqp"):
            raise ValueError("results= is for amqp://; other engines keep them anyway")
        make, reached = None, url
        if url is not None:
            make = engine_for(url)
            reached = make.check(url) or url
        self.queue = check_name(queue)
        self.max_payload = max_payload
        self.results = results
        self.given_url = url
        self._url = reached
        self._make = make
        self._engines: dict[int, Engine] = {}  # by process id

    def handler(
        self,
        name: str,
        *,
        attempts: int = 1,
        backoff: float = 60,
        max_backoff: float = 3600,
        pass_job: bool = False,
        time_limit: float | None = None,
    ) -> Callable[[F], F]:
        """Let the decorated function do the jobs of that name.

        It is called with the payload. What it returns is the job's result, if it is
        JSON. A job may run more than once if a worker is killed, so make the function
        harmless to repeat. Coroutine functions run to their end. What it defers with
        ``defer()`` runs when it has returned, before the job counts as done, and is
        skipped if it raises, as in a block of ``deferring()``.

        :param name: like "mail.welcome": a service, and its action.
        :param attempts: how often the job is tried in all before it has failed.
        :param backoff: seconds before the second attempt; then twice that, and so on.
        :param max_backoff: seconds that no wait between attempts exceeds.
        :param pass_job: call it with the payload and the ``Job``, which has the id and
            the number of this attempt, and is told the job's ``progress``.
        :param time_limit: seconds that the function may take in an attempt. Then the
            attempt fails with ``JobTimeLimitError``, which is raised in the function.
            If that does not end within 5 seconds more, as it hangs in C code, the
            worker's process is ended and replaced; other jobs that it runs are started
            again. The calls that it defers have limits of their own.

        Raises ``ValueError`` for a name that is taken, and for options that make no
        sense.
        """
        check_name(name)
        check_number("attempts", attempts, 1, MOST_ATTEMPTS)
        for option, seconds in (("backoff", backoff), ("max_backoff", max_backoff)):
            if not 0 <= seconds <= LONGEST_DELAY:
                raise ValueError(
                    f"{option} takes seconds, from 0 to a year, not {seconds}"
                )

        if time_limit is not None and not 0 < time_limit <= LONGEST_DELAY:
            raise ValueError(
                f"time_limit takes seconds, more than 0, up to a year, not {time_limit}"
            )

        def register(fn: F) -> F:
            if not callable(fn):
                raise TypeError(f"handler() decorates functions, not {fn!r}")
            if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
                raise TypeError(
                    f"the handler of {name!r} is a generator, and a call of it would "
                    "run nothing; let it return what it yields"
                )
            if name in self._handlers:
                raise ValueError(f"there are two handlers of the name {name!r}")
            self._handlers[name] = Handler(
                name, fn, attempts, backoff, max_backoff, pass_job, time_limit
            )
            return fn

        return register

    def every(
        self,
        every: str | timedelta,
        *,
        name: str,
        timezone: str | tzinfo = "UTC",
        payload: Any = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Let the decorated function do the jobs of that name, again and again.

        ::

            @jobs.every("30 2 * * *", name="reports.nightly", timezone="Europe/Berlin")
            def nightly(payload): ...

        One job is enqueued for each time that is due, however many worker commands
        run. What was missed while none ran is done once. Each such job is enqueued when
        the one before is due, and waits as "scheduled". Where the clocks change, a job
        at a time of day runs once in each day.

        :param every: a cron expression, or a ``timedelta`` of whole seconds, whose
            times are its multiples since 1970 in UTC.
        :param timezone: that of the cron expression.
        :param payload: what the function is called with.
        :param options: those of ``handler()``, such as ``attempts``.

        Raises ``ValueError`` for what makes no sense, and ``ImportError`` if the
        package for cron expressions is missing.
        """
        schedule = Schedule(check_name(name), every, zone_of(timezone), payload)
        to_json(name, payload, self.max_payload)
        register = self.handler(name, **options)

        def register_both(fn: F) -> F:
            register(fn)
            self._schedules[name] = schedule
            return fn

        return register_both

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """What ``every()`` was told in this process."""
        return tuple(self._schedules.values())

    def find(self, name: str) -> Handler:
        """The handler of that name. Raises ``UnknownHandlerError``."""
        try:
            return self._handlers[name]
        except (KeyError, TypeError):
            raise UnknownHandlerError(str(name), self.names) from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all handlers of this process."""
        return tuple(self._handlers)

    def is_stale(self, name: str, job_id: str) -> bool:
        """Whether a job is of a time that is not in the schedule of its name."""
        schedule = self._schedules.get(name)
        return schedule is not None and schedule.is_stale(job_id)

    @property
    def observers(self) -> Sequence[JobObserver]:
        """Who sees the jobs: of ours, and of the Flask extension."""
        extension = self._extensions.get("wsgi_defer")
        others = () if extension is None else extension.options.get("observers", ())
        more = [each for each in others if each not in self._observers]
        everyone = [*self._observers, *more]
        return [each for each in everyone if isinstance(each, JobObserver)]

    @property
    def engine(self) -> Engine:
        """The engine of this process, or what a test has put in its place."""
        if self._instead is not None:
            return self._instead
        process = os.getpid()
        engine = self._engines.get(process)
        if engine is None:
            if self._make is None or self._url is None:
                made: Engine = InProcess(self)
            else:
                made = self._make(self._url, self)
            # Two threads may both be the first. No lock: a fork could copy it.
            engine = self._engines.setdefault(process, made)
            if engine is not made:
                made.close()
        return engine

    def init_app(self, app: FlaskApp) -> None:
        """Run handlers in the app context of a Flask app, with its teardown.

        The calls that they defer have one each, too, and the options of ``Defer(app)``.

        If no URL was given, the URL is ``app.config["WSGI_DEFER_JOBS_URL"]``, if that
        is set, and ``WSGI_DEFER_JOBS_QUEUE``, ``_RESULTS`` and ``_MAX_PAYLOAD`` are the
        other options. With several apps, as in tests, the URL of the latest holds that
        has one. Adds the command ``flask jobs``, such as ``flask --app shop jobs
        worker``, unless the app has one of that name.

        This does not hold jobs for the response: ``wsgi_defer.flask.Defer(app)`` does.
        Raises as ``Jobs()``.
        """
        self._configure(getattr(app, "config", {}))
        app.extensions["wsgi_defer_jobs"] = self
        self._around = app.app_context
        self._extensions = app.extensions
        if hasattr(app, "cli"):
            # At run time, as not everybody who has jobs has Flask.
            import_module(".flask", __package__).add_command(app)

    def _configure(self, config: Mapping[str, Any]) -> None:
        """Use the URL and the options of that configuration, if it has a URL."""
        url = config.get(f"{CONFIG}URL")
        if self._own_url or url is None:
            return
        options = {
            name: config.get(f"{CONFIG}{name.upper()}", own)
            for name, own in self._own.items()
        }
        configured = {"url": url, **options}
        if configured != self._configured:
            before = self._engines.get(os.getpid())
            self._use_engine(**configured)
            self._configured = configured
            if before is not None:
                before.close()

    @contextmanager
    def eager(self) -> Iterator[None]:
        """For tests: inside the block, ``enqueue()`` runs the job and raises its error.

        This holds for all threads of the process. There is no ``delay``, and only one
        attempt.
        """
        with self._use(Eager(self)):
            yield

    @contextmanager
    def captured(self) -> Iterator[list[Captured]]:
        """For tests: inside the block, jobs do not run; they are put on its list.

        This holds for all threads of the process. In a request, jobs are put on the
        list when the response starts, if it is a success.
        """
        capturing = Capturing(self)
        with self._use(capturing):
            yield capturing.captured

    @contextmanager
    def _use(self, engine: Engine) -> Iterator[None]:
        before, self._instead = self._instead, engine
        try:
            yield
        finally:
            self._instead = before

    def run(
        self, name: str, payload: str, job_id: str, attempt: int, *, last: bool
    ) -> Any:
        """Run a job's handler here, for its engine; return its result, or None.

        ``payload`` is as an engine stores it. A failure is logged and raised.
        """
        payload, carrier = parted(payload)
        observers = self.observers
        if not observers:
            return self._run(name, payload, job_id, attempt, last)
        what = JobAttempt(job_id, name, attempt, last)
        with observed(observers, what, carrier):
            return self._run(name, payload, job_id, attempt, last)

    def _run(
        self, name: str, payload: str, job_id: str, attempt: int, last: bool
    ) -> Any:
        if self.is_stale(name, job_id):
            logger.warning("job %s %s is left out, and counts as done: its schedule "
                           "has changed", name, job_id)  # fmt: skip
            return None
        try:
            handler = self.find(name)
            args = [json.loads(payload)]
            if handler.pass_job:
                args.append(self._job(job_id, name, attempt))
            scope = HandlerScope(self._options(), current_scope())
            with calls_run_after(scope), Apart(self._around()), no_fork_leaves():
                result = run_within(
                    handler.time_limit, name, lambda: complete(handler.fn(*args))
                )
        except BaseException as error:
            level = logging.ERROR if last else logging.WARNING
            then = "and has failed" if last else "and is tried again"
            logger.log(level, "job %s %s raised %s in attempt %d, %s", name, job_id,
                       type(error).__name__, attempt, then, exc_info=True)  # fmt: skip
            raise
        return self._checked(result, name, job_id)

    def _options(self) -> Options:
        """Those of the calls that handlers defer."""
        middleware = self._extensions.get("wsgi_defer_middleware")
        if middleware is not None:
            options: Options = middleware.options
            return options._replace(room=None)  # which is for requests
        if self._around is nullcontext:
            return self._defaults
        return self._defaults._replace(around=lambda: Apart(self._around()))

    def _job(self, job_id: str, name: str, attempt: int) -> Job:
        """What the handler gets."""

        def store(progress: Progress) -> None:
            try:
                self.engine.progress(job_id, attempt, progress)
            except JobsUnavailable as error:
                complain(error)

        told = Progress(tell=Teller(store))
        return Job(job_id, name, "running", attempt, progress=told)

    def _checked(self, result: Any, name: str, job_id: str) -> Any:
        try:
            to_json(name, result, self.max_payload)
        except ValueError as error:
            logger.warning("the result of job %s %s is not kept: %s", name, job_id,
                           str(error).replace("payload", "result"))  # fmt: skip
            return None
        return result
