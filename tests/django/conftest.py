"""PostgreSQL for the session, a database of it for each test, and Redis."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import count

import pytest

from ..engines.services import Postgres, Redis

# Not in every environment of the tests, and not for every Python.
collect_ignore_glob = [] if find_spec("django") else ["test_*.py"]
numbers = count(1)


@pytest.fixture(scope="session")
def postgres():
    """A server of our own, which tests may restart."""
    pytest.importorskip("psycopg")
    Postgres.skip_unless_installed()
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def redis():
    """A server for jobs."""
    pytest.importorskip("rq")
    Redis.skip_unless_installed()
    server = Redis()
    yield server
    server.close()


class Database:
    """A database, as Django's settings and the tests see it."""

    def __init__(self, server):
        self.server = server
        self.name = f"site{next(numbers)}"
        server.database(self.name)

    def settings(self, **more):
        """The line of the settings."""
        default = {
            "ENGINE": "django.db.backends.postgresql", "NAME": self.name,
            "USER": "jobs", "HOST": "127.0.0.1", "PORT": self.server.port, **more,
        }  # fmt: skip
        return f"DATABASES = {{'default': {default!r}}}\n"

    def ask(self, query):
        """The first value of its first row."""
        import psycopg

        url = f"postgresql://jobs@127.0.0.1:{self.server.port}/postgres"
        if "pg_stat_activity" not in query:
            url = url.replace("/postgres", f"/{self.name}")
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchone()[0]

    def connections(self):
        """How many clients it has."""
        return self.ask(
            f"select count(*) from pg_stat_activity where datname = '{self.name}'"
        )

    def restart(self):
        """End all connections, as an update of the server does."""
        self.server.stop()
        self.server.start()


@pytest.fixture
def database(postgres):
    return Database(postgres)
