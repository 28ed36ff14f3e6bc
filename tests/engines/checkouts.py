"""An app whose calls work with databases, and which tells what connections are out.

POSTGRES and REDIS are the URLs. Each pool has five connections, so that one which
does not come back is missed soon.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

import flask
import psycopg_pool
import redis
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from wsgi_defer import defer
from wsgi_defer.flask import Defer

POSTGRES = os.environ["POSTGRES"]
FOR_SQLALCHEMY = POSTGRES.replace("postgresql://", "postgresql+psycopg://")
SIZE = 5
SIZES = {"pool_size": SIZE, "max_overflow": 0, "pool_timeout": 10}
WRITE = "insert into written values ('{}')"

app = flask.Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = FOR_SQLALCHEMY
app.config["SQLALCHEMY_ENGINE_OPTIONS"] = SIZES
db = SQLAlchemy(app)
engine = create_engine(FOR_SQLALCHEMY, **SIZES)
sessions = scoped_session(sessionmaker(engine))
plain = psycopg_pool.ConnectionPool(POSTGRES, min_size=1, max_size=SIZE, open=True)
kept = redis.BlockingConnectionPool.from_url(os.environ["REDIS"], max_connections=SIZE)
client = redis.Redis(connection_pool=kept)


@contextmanager
def removed():
    yield
    sessions.remove()


Defer(app, around=removed)


def by_flask_sqlalchemy():
    db.session.execute(text(WRITE.format("flask")))
    db.session.commit()
    db.session.execute(text("select 1"))  # has a connection again


def by_flask_sqlalchemy_and_fail():
    db.session.execute(text("select 1"))
    raise LookupError


def by_a_scoped_session():
    sessions.execute(text(WRITE.format("scoped")))
    sessions.commit()
    sessions.execute(text("select 1"))


def by_a_session():
    with Session(engine) as session:
        session.execute(text(WRITE.format("plain")))
        session.commit()
        session.execute(text("select 1"))


def by_psycopg():
    with plain.connection() as connection:
        connection.execute(WRITE.format("psycopg"))


def by_redis():
    client.incr("written")


@app.get("/")
def index():
    db.session.execute(text("select 1"))  # the view has one, too
    defer(by_flask_sqlalchemy_and_fail)
    defer(by_flask_sqlalchemy)
    defer(by_a_scoped_session)
    defer(by_a_session)
    defer(by_psycopg)
    defer(by_redis)
    return "soon\n"


@app.get("/out")
def out():
    """How many connections of each pool are out."""
    stats = plain.get_stats()
    return {
        "flask": db.engine.pool.checkedout(),
        "sqlalchemy": engine.pool.checkedout(),
        "psycopg": stats["pool_size"] - stats["pool_available"],
        "redis": SIZE - kept.pool.qsize(),
    }
