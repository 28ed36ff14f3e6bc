"""Calls that wait for the commit of a session of SQLAlchemy."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from contextlib import suppress

import flask
import pytest
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import (
    Mapped,
    Session,
    declarative_base,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import StaticPool

from wsgi_defer import DeferMiddleware, defer, deferring, forget
from wsgi_defer._calls.scope import enter, leave
from wsgi_defer.flask import Defer
from wsgi_defer.jobs import Jobs
from wsgi_defer.sqlalchemy import KEY
from wsgi_defer.testing import captured, eager

from ..helpers.client import get, text_app

NOT_COMMITTED = "its session has not committed"
ROLLED_BACK = "its session has rolled back"


@pytest.fixture(scope="module")
def engine():
    engine = create_engine("sqlite://", poolclass=StaticPool)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine):
    with Session(engine) as session:
        yield session


@pytest.fixture
def other(engine):
    with Session(engine) as session:
        yield session


@pytest.fixture
def run(ran):
    """Defer in a request what appends to ``ran``; return why calls were skipped."""

    def run(view):
        del ran[:]
        with captured() as calls:
            with deferring():
                view()
            calls.run()
            return [each.why for each in calls.skipped]

    return run


def app_of(view, **options):
    return DeferMiddleware(text_app(view, **options))


def begin(session):
    session.execute(text("select 1"))


def commit(session):
    session.commit()


def roll_back(session):
    session.rollback()


def close(session):
    session.close()


def fail(session):
    """An error of the app's, in the block of its session."""
    with suppress(LookupError), session:
        begin(session)
        raise LookupError


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ((commit,), None),
        ((commit, begin, roll_back), None),
        ((commit, close), None),
        ((), NOT_COMMITTED),
        ((begin,), NOT_COMMITTED),
        ((begin, roll_back), ROLLED_BACK),
        ((begin, roll_back, begin, commit), ROLLED_BACK),
        ((begin, close), ROLLED_BACK),
        ((fail,), ROLLED_BACK),
    ],
)
def test_the_next_end_decides(session, ran, run, begun, steps, why):
    """What the session did before the line does not matter, nor does what it does
    later."""

    def view():
        begin(session)
        session.commit()
        if begun:
            begin(session)
        defer(ran.append, 1).after_commit(session)
        for step in steps:
            step(session)

    assert run(view) == ([why] if why else [])
    assert ran == ([] if why else [1])


def test_a_commit_before_the_line(session, ran, run):
    """It does not count: the line belongs before the commit."""

    def view():
        session.commit()
        defer(ran.append, 1).after_commit(session)

    assert run(view) == [NOT_COMMITTED]


def test_savepoints(session, ran, run):
    """A savepoint that is rolled back drops what was deferred in it, and no more."""

    def view():
        defer(ran.append, "before").after_commit(session)
        with session.begin_nested():
            defer(ran.append, "released").after_commit(session)
            with session.begin_nested():
                defer(ran.append, "innermost").after_commit(session)
        assert not ran
        with suppress(LookupError), session.begin_nested():
            defer(ran.append, "rolled back").after_commit(session)
            with session.begin_nested():
                defer(ran.append, "in that").after_commit(session)
            raise LookupError
        defer(ran.append, "after").after_commit(session)
        session.commit()

    assert run(view) == [ROLLED_BACK, ROLLED_BACK]
    assert ran == ["before", "released", "innermost", "after"]


def test_a_released_savepoint_in_a_transaction_that_is_rolled_back(session, ran, run):
    """Its release is not a commit."""

    def view():
        with session.begin_nested():
            defer(ran.append, 1).after_commit(session)
        session.rollback()

    assert run(view) == [ROLLED_BACK]


def test_in_a_flush(engine, ran, run):
    """Inside hooks of a flush and of a commit, the transaction is the one around."""

    class Mine(Session):
        """With hooks of its own."""

    class Row(declarative_base()):
        __tablename__ = "rows"
        id: Mapped[int] = mapped_column(primary_key=True)

    def hook(session, *more):
        defer(ran.append, "hook").after_commit(session)
        with session.begin_nested():
            defer(ran.append, "nested").after_commit(session)

    event.listen(Mine, "before_commit", hook, once=True)
    event.listen(Mine, "after_flush", hook, once=True)
    Row.metadata.create_all(engine)

    def view():
        with Mine(engine) as session:
            session.add(Row())
            session.commit()

    assert run(view) == []
    assert sorted(ran) == ["hook", "hook", "nested", "nested"]


def test_options(session, ran, run):
    """The commit comes on top of them, in any order."""

    def view():
        defer(ran.append, "failure").on_failure().after_commit(session)
        defer(ran.append, "always").after_commit(session).always()
        defer(ran.append, "when").after_commit(session).when(lambda outcome: True)
        defer(ran.append, "limit").after_commit(session).time_limit(5)
        session.commit()
        defer(ran.append, "never").after_commit(session).always()

    whys = run(view)
    assert whys[1] == NOT_COMMITTED
    assert whys[0].endswith("the call runs only after a failure")
    assert ran == ["always", "when", "limit"]


def test_the_status(session, ran):
    """A response that is no success drops the call, though all is committed."""

    def view():
        defer(ran.append, 1).after_commit(session)
        defer(ran.append, 2).after_commit(session).on_failure()
        session.commit()

    get(app_of(view, status="404 Not Found"))
    assert ran == [2]


def test_order(session, ran, run):
    """Calls keep the places of their lines."""

    def view():
        defer(ran.append, 1).after_commit(session)
        defer(ran.append, 2)
        session.commit()
        defer(ran.append, 3)

    run(view)
    assert ran == [1, 2, 3]


def test_names(session, ran, run):
    """A call that is rolled back does not replace an earlier one of its name."""

    def view():
        for number in range(5):
            if number != 4:  # the last one does nothing, and ends nothing
                begin(session)
            defer(ran.append, number).named("same").after_commit(session)
            (commit if number < 2 else roll_back)(session)
        defer(ran.append, "gone").named("gone").after_commit(session)
        forget("gone")

    whys = run(view)
    assert sorted(whys) == [
        "a later call has its name", "it was cancelled", NOT_COMMITTED, ROLLED_BACK,
        ROLLED_BACK,
    ]  # fmt: skip
    assert ran == [1]


def test_names_and_a_commit_by_a_call(session, ran):
    """Looking for what replaces one call forgets no other that commits later."""

    def save(forgotten):
        session.commit()
        forget(forgotten)

    with deferring():
        defer(ran.append, "A").named("x")
        defer(ran.append, "A").named("y")
        defer(save, "y")
        defer(ran.append, "B").named("x").after_commit(session)
        defer(ran.append, "C").named("x").after_commit(session)
        defer(ran.append, "D").named("y").after_commit(session)
    assert ran == ["A", "A", "C"]

    del ran[:]
    with deferring():
        defer(ran.append, "replaced").named("x")
        defer(ran.append, "E").named("x")
        defer(ran.append, "waits").named("x").after_commit(session)
    assert ran == ["E"]


def test_chains(session, other, ran, run):
    """What follows a call that is dropped does not run. A follower may wait, too."""

    def view():
        defer(ran.append, 1).after_commit(session).then(ran.append)
        defer(ran.append, 2).then(ran.append).after_commit(session)
        defer(ran.append, 3).after_commit(other).then(ran.append)
        call = defer(ran.append, 4).after_commit(session).catch(ran.append)
        call.finally_(lambda: ran.append("end"))
        session.rollback()
        other.commit()

    # Neither has done anything before its end.
    begin(session)
    begin(other)
    whys = run(view)
    assert ran == [2, 3, None]
    not_followed = "the call that it follows did not run"
    assert sorted(set(whys)) == [ROLLED_BACK, not_followed]
    assert len(whys) == 6


@pytest.mark.parametrize("ends", [commit, roll_back, None])
def test_two_sessions(session, other, ran, run, ends):
    """Both have to commit."""
    begin(session)
    begin(other)

    def view():
        defer(ran.append, 1).after_commit(session).after_commit(other)
        session.commit()
        if ends:
            ends(other)

    whys = {commit: [], roll_back: [ROLLED_BACK], None: [NOT_COMMITTED]}[ends]
    assert run(view) == whys
    assert ran == ([] if whys else [1])


def test_a_commit_by_a_call(session, ran):
    """One before it counts, as it is asked just before it would run. Its own comes too
    late."""

    def save():
        ran.append("save")
        session.commit()

    with deferring() as scope:
        defer(save).after_commit(session)
        defer(save)
        defer(ran.append, 1).after_commit(session)
    assert ran == ["save", 1]
    assert scope.skipped == 1


def test_a_result_that_the_view_needs(session, ran, run):
    """It runs at once, as ever."""

    def view():
        begin(session)
        defer(ran.append, 1).after_commit(session).result()
        assert ran == [1]
        session.rollback()

    assert run(view) == []


def test_eager(session, ran):
    """The call has run before its option is set."""
    with eager(), deferring():
        defer(ran.append, 1).after_commit(session)
    assert ran == [1]


def test_the_handle(session):
    """It is cancelled as soon as its session has rolled back."""
    begin(session)
    with deferring():
        call = defer(print).after_commit(session)
        session.rollback()
        assert call.cancelled()
        assert not call.pending


def test_scoped_session(engine, ran, run):
    """The session of the line counts, not that of the call."""
    sessions = scoped_session(sessionmaker(engine))

    def view():
        defer(ran.append, 1).after_commit(sessions)
        sessions.commit()
        sessions.remove()
        defer(ran.append, 2).after_commit(sessions)
        begin(sessions)
        sessions.remove()

    assert run(view) == [ROLLED_BACK]
    assert ran == [1]


@pytest.mark.parametrize("ends", ["commit", "rollback", "nothing", "error"])
def test_flask_sqlalchemy(ran, ends):
    """Its session ends with the request, and a call has another one."""
    app = flask.Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)
    Defer(app)

    @app.get("/")
    def view():
        begin(db.session)
        defer(ran.append, "call").always().after_commit(db.session)
        if ends == "error":
            raise LookupError
        if ends != "nothing":
            getattr(db.session, ends)()
        return "done"

    with captured() as calls:
        app.test_client().get("/", buffered=True)
        calls.run()
        assert [each.why for each in calls.skipped] == (
            [] if ends == "commit" else [ROLLED_BACK]
        )
        assert all(each.outcome is not None for each in calls.skipped)
    assert ran == ["call"] * (ends == "commit")
    with app.app_context():
        db.engine.dispose()


class Row(declarative_base()):
    """Any class of a model: it has a ``registry``, too."""

    __tablename__ = "any"
    id: Mapped[int] = mapped_column(primary_key=True)


class AsyncLike:
    """As an ``AsyncSession``, which has a plain one inside."""

    def __init__(self, session):
        self.sync_session = session


def test_async_sessions(session, ran, run):
    """The session inside it is the one that ends."""

    def view():
        defer(ran.append, 1).after_commit(AsyncLike(session))
        session.commit()

    assert run(view) == []


def test_async_scoped_session(engine, ran, run):
    """The session of this task, or of whatever it goes by."""
    asyncio = pytest.importorskip("sqlalchemy.ext.asyncio")
    own = AsyncLike(Session(engine))
    sessions = asyncio.async_scoped_session(lambda: own, scopefunc=lambda: 1)

    def view():
        defer(ran.append, 1).after_commit(sessions)
        own.sync_session.commit()

    assert run(view) == []
    assert ran == [1]
    own.sync_session.close()


@pytest.mark.parametrize("own_class", [True, False])
@pytest.mark.parametrize(
    "moment",
    [
        "after_transaction_create",
        "after_begin",
        "after_commit",
        "after_transaction_end",
    ],
)
def test_the_first_wait_in_a_hook(engine, ran, own_class, moment):
    """SQLAlchemy takes no listeners while it tells those it has."""

    class Mine(Session):
        """With a hook of its own, or none."""

    def hook(session, *more):
        if not called:
            called.append(defer(ran.append, 1).after_commit(session))

    called = []
    with Mine(engine) as session:
        event.listen(Mine if own_class else session, moment, hook)
        with deferring():
            begin(session)
            session.commit()
            if moment == "after_transaction_end":
                begin(session)
                session.commit()
    assert ran == [1]


def test_the_first_wait_of_a_process_in_a_hook():
    """If the app has imported what listens."""
    out = printed("""
import wsgi_defer.sqlalchemy

@event.listens_for(Session, "after_commit")
def hook(session):
    defer(print, "ran").after_commit(session)

with deferring(), Session(create_engine("sqlite://")) as session:
    session.execute(text("select 1"))
    session.commit()
""")
    assert out == "ran\n"


def test_nothing_listens_unless_something_waits():
    """An app that has sessions, and defers, but not that, has its sessions as ever."""
    out = printed("""
DeferMiddleware(print)
Jobs(None)
with deferring(), Session(create_engine("sqlite://")) as session:
    defer(int)
    session.execute(text("select 1"))
    session.commit()
print(session.info, "wsgi_defer.sqlalchemy" in sys.modules)
""")
    assert out == "{} False\n"


def printed(code):
    """What a new process prints that runs this."""
    start = """
import sys
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session
from wsgi_defer import DeferMiddleware, defer, deferring
from wsgi_defer.jobs import Jobs
"""
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_copy_of_the_info(session, engine, ran, run):
    """Each session has its own waits: one does not end those of the other."""
    begin(session)

    def view():
        defer(ran.append, 1).after_commit(session)
        with Session(engine, info=session.info) as copy:
            defer(ran.append, 2).after_commit(copy)
            begin(copy)
            copy.commit()
            defer(ran.append, 3).after_commit(session)
        with Session(engine, info=session.info) as copy:
            begin(copy)  # nothing waits for it
            copy.commit()
        session.rollback()

    assert run(view) == [ROLLED_BACK, ROLLED_BACK]
    assert ran == [2]


@pytest.mark.parametrize("wrong", ["orders", None, sessionmaker(), Row()])
def test_something_else(wrong):
    """The error says what to do, and the call is left as it was."""
    with deferring():
        call = defer(str)
        with pytest.raises(TypeError, match="takes a session of SQLAlchemy, not"):
            call.after_commit(wrong)
    assert call.result() == ""


def test_nothing_is_left_behind(engine):
    """A session that ends lets go of the call, and one that is dropped goes."""
    session = Session(engine)
    with deferring():
        call = defer(str).after_commit(session)
        session.commit()
        assert session.info[KEY].waiting == []
        defer(str).after_commit(session)
    gone = weakref.ref(session)
    session.close()
    del session, call
    gc.collect()
    assert gone() is None


def test_jobs(session):
    """A job is stored when its session has committed, and else never."""
    jobs = Jobs(None)
    jobs.handler("mail")(print)
    with jobs.captured() as stored:
        job_id = jobs.enqueue("mail", after_commit=session)
        assert stored == []
        session.commit()
        assert [job.id for job in stored] == [job_id]
        jobs.enqueue("mail", after_commit=session)
        session.rollback()
        begin(session)
        jobs.enqueue("mail", after_commit=session)
        session.rollback()
        assert len(stored) == 1
        with pytest.raises(ValueError, match="after_commit=True"):
            jobs.enqueue("mail", after_commit=session, using="other")
        with pytest.raises(TypeError, match="session of SQLAlchemy, not str"):
            jobs.enqueue("mail", after_commit="default")
        session.commit()


def test_jobs_of_a_request(session):
    """They wait for the commit, and then for the response."""
    jobs = Jobs(None)
    jobs.handler("mail")(print)

    def view():
        jobs.enqueue("mail", after_commit=session)
        session.commit()
        seen.append(len(stored))

    seen = []
    with jobs.captured() as stored:
        get(app_of(view))
        assert len(stored) == 1
        get(app_of(view, status="404 Not Found"))
        assert (len(stored), seen) == (1, [0, 1])


@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
def test_jobs_of_a_request_that_did_nothing(session, status):
    """What the next request commits, on the same session, does not store them."""
    jobs = Jobs(None)
    jobs.handler("mail")(print)

    def fails():
        jobs.enqueue("mail", after_commit=session)

    def commits():
        begin(session)
        session.commit()

    with jobs.captured() as stored:
        get(app_of(fails, status=status))
        assert session.info[KEY].waiting == []
        get(app_of(commits))
        assert stored == []


def test_jobs_of_a_block_inside_a_transaction(session):
    """The block ends before the transaction, which still decides; also if it has begun
    only in the block."""
    jobs = Jobs(None)
    jobs.handler("mail")(print)
    with jobs.captured() as stored:
        with deferring() as scope:
            begin(session)
            jobs.enqueue("mail", after_commit=session)
            assert not scope.guests  # nothing to abandon
        session.commit()
        assert len(stored) == 1
        with deferring():
            jobs.enqueue("mail", after_commit=session)
            begin(session)
        session.commit()
        assert len(stored) == 2
        with deferring():
            jobs.enqueue("mail", after_commit=session)
            begin(session)
            session.commit()
        assert len(stored) == 3
        token = enter(scope)  # closed, as for code that outlives its request
        jobs.enqueue("mail", after_commit=session)
        leave(token)
        begin(session)
        session.commit()
        assert len(stored) == 4


def test_a_job_that_cannot_be_stored(session, monkeypatch):
    """``commit()`` raises that when all is committed and the session can be used; the
    others are stored."""
    jobs = Jobs(None)
    jobs.handler("mail")(print)
    real = jobs.engine.enqueue

    def enqueue(order):
        if order.id == "first":
            raise LookupError
        real(order)

    monkeypatch.setattr(jobs.engine, "enqueue", enqueue)
    jobs.enqueue("mail", job_id="first", after_commit=session)
    jobs.enqueue("mail", job_id="second", after_commit=session)
    with pytest.raises(LookupError):
        session.commit()
    assert jobs.status("second") is not None
    begin(session)
