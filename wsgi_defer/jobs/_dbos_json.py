"""What DBOS stores, as JSON; and never a pickle."""

from __future__ import annotations

import json
from typing import Any

import dbos._serialization
from dbos import Serializer

from ._job import describe


class AttemptFailed(Exception):  # noqa: N818 - its text is that of the real error
    """Ends the last attempt of a job. Carries what ``Job.error`` says."""


class Json(Serializer):
    """For arguments, results and exceptions."""

    def serialize(self, data: Any) -> str:
        if isinstance(data, AttemptFailed):
            data = {"error": str(data)}
        elif isinstance(data, BaseException):
            data = {"error": describe(data)}
        return json.dumps(data)

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data)

    def name(self) -> str:
        return "wsgi_defer_json"


def refuse_pickles() -> None:
    """In this process, let DBOS read no pickle, whatever a row says of itself.

    Even with a serializer of ours, it unpickles what is marked ``py_pickle`` (3.4), so
    who can write to the database could run code in the worker.
    """

    def deserialize(self: Any, serialized_data: str) -> Any:
        raise ValueError("it is a pickle, and none is read here")

    dbos._serialization.DefaultSerializer.deserialize = deserialize  # type: ignore
