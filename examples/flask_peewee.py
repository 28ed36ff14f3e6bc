"""Flask with peewee: a call has a connection of its own.

    gunicorn examples.flask_peewee:app
    curl http://127.0.0.1:8000/signup/ada
    curl http://127.0.0.1:8000/log

before_request functions do not run again for a call. What they open, as the connection
here, ``around`` opens for each call, and closes after it.
"""

import tempfile
from contextlib import contextmanager

from flask import Flask
from peewee import Model, SqliteDatabase, TextField

from wsgi_defer import defer
from wsgi_defer.flask import Defer

folder = tempfile.TemporaryDirectory()
database = SqliteDatabase(f"{folder.name}/log.db", autoconnect=False)
app = Flask(__name__)


@contextmanager
def connection():
    # A call that runs early, by its result(), leaves the connection to the view.
    opened = database.connect(reuse_if_open=True)
    try:
        yield
    finally:
        if opened:
            database.close()


Defer(app, around=connection)


class Entry(Model):
    text = TextField()

    class Meta:
        database = database


with connection():
    database.create_tables([Entry])


@app.before_request
def connect():
    database.connect()


@app.teardown_request
def close(error):
    if not database.is_closed():
        database.close()


@app.get("/signup/<name>")
def signup(name):
    Entry.create(text=f"{name} signed up")
    defer(welcome, name)
    return f"Welcome, {name}!\n"


def welcome(name):
    Entry.create(text=f"{name} was welcomed")


@app.get("/count")
def count():
    number = defer(Entry.select().count).result()
    return f"{number} of {Entry.select().count()}\n"


@app.get("/log")
def log():
    texts = [entry.text for entry in Entry.select().order_by(Entry.id)]
    return "".join(f"{text}\n" for text in texts)


if __name__ == "__main__":
    app.run(port=8000)
