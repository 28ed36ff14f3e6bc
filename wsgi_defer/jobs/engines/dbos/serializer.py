"""What DBOS stores: JSON, and never a pickle."""

from __future__ import annotations

import json
from typing import Any

import dbos._serialization
from dbos import Serializer

from ..._attempt import AttemptFailed
from ..._job import describe


class Json(Serializer):
    """For arguments, results and exceptions."""

    def serialize(self, data: Any) -> str:
        if isinstance(data, AttemptFailed):
            data = {"error": data.error}
        elif isinstance(data, BaseException):
            data = {"error": describe(data)}
        return json.dumps(data)

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data)

    def name(self) -> str:
        return "wsgi_defer_json"


def refuse_pickles() -> None:
    """In this process, keep DBOS from reading a pickle, whatever a row says.

    It unpickles what is marked ``py_pickle``, even with our serializer (3.4). Anybody
    who can write to the database could run code in the worker.
    """

    def deserialize(self: Any, serialized_data: str) -> Any:
        raise ValueError("it is a pickle, and none is read here")

    dbos._serialization.DefaultSerializer.deserialize = deserialize  # type: ignore
