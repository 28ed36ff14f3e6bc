"""The database of DBOS: its URL, and connections that give up in time."""

from __future__ import annotations

import logging
import os
import re
from functools import partial
from typing import Any

import sqlalchemy as sa

from .._postgres import Impatient, refuse_moving
from .forks import forks

PATIENCE = 1.8  # seconds that a call waits for the database's lock, or a connection
# Milliseconds, again and again. SQLite itself sleeps up to 100 ms before it looks
# again, and others come first. With 4 busy web processes and 2 workers, the slowest of
# 2000 requests took 0.3 to 0.6 s like this. Otherwise it took 1.1 to 1.9 s, and one
# failed.
LOCK_WAIT = 30
POOL = "wsgi_defer"  # SQLAlchemy's name for our pools in its logs
# Errors do not show the parameters, which have the payloads.
QUIET: dict[str, Any] = {"hide_parameters": True, "pool_logging_name": POOL}


class Busy(Exception):  # noqa: N818 - DBOS must not know it
    """Another process is writing to the database."""


def owner(queue: str) -> str:
    """The queue's name, in the characters that DBOS allows for an application."""
    return "jobs-" + re.sub(r"[^a-z0-9_]", lambda c: f"-{ord(c[0]):x}-", queue)


def is_sqlite(url: sa.URL) -> bool:
    return url.drivername == "sqlite"


def database(url: str) -> sa.URL:
    """The database of a URL. Raises ``ValueError``, without the URL's password."""
    try:
        found = sa.make_url(url.removeprefix("dbos+"))
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError("the URL of the jobs is none that SQLAlchemy knows") from None
    if not is_sqlite(found):
        if not found.database:
            raise ValueError("the URL of the jobs names no database: dbos+postgresql://"
                             "user@host/database")  # fmt: skip
        found = found.set(drivername="postgresql+psycopg")
        # For libpq: whole seconds from 2 on, and milliseconds.
        return found.update_query_dict(
            {"connect_timeout": "2", "tcp_user_timeout": "10000", **found.query}
        )
    if found.database in (None, "", ":memory:") or "mode=memory" in url:
        raise ValueError("jobs in memory would be lost, and no worker could see them: "
                         "name a file, such as sqlite:///jobs.db")  # fmt: skip
    if "?" in url or found.host:
        raise ValueError("sqlite:// takes a path only: sqlite:///jobs.db, or with four "
                         "slashes, sqlite:////var/lib/app/jobs.db. Rename a directory "
                         "that has a ? in its name")  # fmt: skip
    # Without links: workers of the same file need the same slots.
    return found.set(database=os.path.realpath(found.database or ""))


def connect(url: sa.URL) -> sa.Engine:
    """An engine for a client. It gives up after about ``PATIENCE`` seconds."""
    if not is_sqlite(url):
        return sa.create_engine(
            url,
            creator=partial(open_postgres, url),
            pool_pre_ping=True,
            pool_timeout=PATIENCE,
            **QUIET,
        )
    engine = sa.create_engine(url, pool_timeout=PATIENCE, **QUIET)
    forks.engines.add(engine)

    # DBOS sets up its own engine like this, but waits for half a minute.
    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute(f"PRAGMA busy_timeout = {LOCK_WAIT}")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "handle_error")
    def give_up(context: Any) -> None:
        # After SQLite's own error, DBOS would try again forever.
        if "is locked" in str(context.original_exception):
            raise Busy("another process is writing to it, and does not end")

    return engine


def open_postgres(url: sa.URL, *, autocommit: bool = False) -> Impatient:
    """A connection to Postgres that gives up in time."""
    libpq = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return Impatient.connect(libpq, autocommit=autocommit)


def check_pooler(title: str, url: sa.URL) -> None:
    """Raise ``NotSupported`` behind a pooler that would make locks worthless."""
    another = partial(open_postgres, url, autocommit=True)
    with another() as connection:
        refuse_moving(title, connection, another)


# The application need not know what a pool could not close. What led to it is raised.
logging.getLogger(f"sqlalchemy.pool.impl.QueuePool.{POOL}").setLevel(logging.CRITICAL)
