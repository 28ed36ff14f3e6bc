"""Pyramid with pyramid_tm: a call has a transaction of its own.

    gunicorn examples.pyramid_sqlalchemy:app
    curl http://127.0.0.1:8000/signup/ada
    curl http://127.0.0.1:8000/log

pyramid_tm commits the transaction of a request. Calls come after that: what they write
with zope.sqlalchemy is committed by the transaction manager that is around them.
"""

import transaction
import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.response import Response
from sqlalchemy import create_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import StaticPool

from wsgi_defer import DeferMiddleware, defer

# One connection, because a database in memory ends with its connection.
engine = create_engine("sqlite://", poolclass=StaticPool)
Session = scoped_session(sessionmaker(engine))
zope.sqlalchemy.register(Session)


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


Base.metadata.create_all(engine)


def signup(request):
    name = request.matchdict["name"]
    Session.add(Entry(text=f"{name} signed up"))
    defer(welcome, name)
    return Response(f"Welcome, {name}!\n")


def welcome(name):
    Session.add(Entry(text=f"{name} was welcomed"))


def log(request):
    texts = [entry.text for entry in Session.query(Entry).order_by(Entry.id)]
    return Response("".join(f"{text}\n" for text in texts))


with Configurator() as config:
    config.include("pyramid_tm")
    config.add_route("signup", "/signup/{name}")
    config.add_view(signup, route_name="signup")
    config.add_route("log", "/log")
    config.add_view(log, route_name="log")
    app = DeferMiddleware(config.make_wsgi_app(), around=lambda: transaction.manager)


if __name__ == "__main__":
    from wsgiref.simple_server import make_server

    make_server("127.0.0.1", 8000, app).serve_forever()
