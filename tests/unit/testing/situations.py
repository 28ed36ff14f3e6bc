"""Views that defer in every way, and what should become of it."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from wsgi_defer import before_response, defer, forget


class Situation(NamedTuple):
    """A view for a list that its calls append to, and what that has in the end."""

    view: object
    ran: list
    why: list = []  # of what is skipped
    status: int = 200
    raises: bool = False


def in_order(ran):
    defer(ran.append, 1)
    defer(ran.append, 2)


def nested(ran):
    def outer():
        ran.append("outer")
        defer(inner)

    def inner():
        ran.append("inner")
        defer(ran.append, "innermost")

    defer(outer)
    defer(ran.append, "second")


def names(ran):
    defer(ran.append, 1).named("same")
    defer(ran.append, 2)
    defer(ran.append, 3).named("same")


def a_name_that_is_taken_later(ran):
    def first():
        ran.append("first")
        defer(ran.append, "last").named("same")

    defer(first)
    defer(ran.append, "replaced").named("same")


def forgotten(ran):
    defer(ran.append, 1).named("gone")
    defer(ran.append, 2)
    forget("gone")


def outcomes(ran):
    defer(ran.append, "success")
    defer(ran.append, "failure").on_failure()
    defer(ran.append, "always").always()
    defer(ran.append, "when").when(lambda outcome: outcome.status in (200, 404))


def held(ran):
    before_response(ran.append, "before")
    defer(ran.append, "after")
    ran.append("view")


def held_that_fails(ran):
    before_response(divide, 1, 0)
    defer(ran.append, "success")
    defer(ran.append, "failure").on_failure()


def chain(ran):
    defer(ran.append, "first").then(lambda _: ran.append("then")).finally_(
        partial(ran.append, "finally")
    )


def chain_of_a_skipped_call(ran):
    call = defer(ran.append, 1).on_failure()
    call.then(ran.append)
    defer(ran.append, 2)


def early(ran):
    call = defer(ran.append, "early")
    defer(ran.append, "late")
    call.result()
    ran.append("view")


def divide(a, b):
    return a / b


A_LATER = "a later call has its name"
A_200 = "the status is 200; the call runs only after a failure"
SITUATIONS = {
    "in order": Situation(in_order, [1, 2]),
    "nested": Situation(nested, ["outer", "second", "inner", "innermost"]),
    "names": Situation(names, [2, 3], [A_LATER]),
    "a name taken later": Situation(
        a_name_that_is_taken_later, ["first", "last"], [A_LATER]
    ),
    "forgotten": Situation(forgotten, [2], ["it was cancelled"]),
    "success": Situation(outcomes, ["success", "always", "when"], [A_200]),
    "404": Situation(
        outcomes, ["failure", "always", "when"],
        ["the status is 404; the call runs only after a success"], 404,
    ),
    "raised": Situation(
        outcomes, ["failure", "always"],
        ["LookupError was raised; the call runs only after a success",
         "LookupError was raised; the call's when() function said no"],
        500, raises=True,
    ),
    "held": Situation(held, ["view", "before", "after"]),
    "held that fails": Situation(
        held_that_fails, ["failure"],
        ["ZeroDivisionError was raised; the call runs only after a success"], 503,
    ),
    "chain": Situation(chain, ["first", "then", "finally"]),
    "skipped chain": Situation(
        chain_of_a_skipped_call, [2],
        [A_200, "the call that it follows did not run"],
    ),
    "early": Situation(early, ["early", "view", "late"]),
}  # fmt: skip


def app_of(situation, ran):
    """A plain WSGI app."""

    def app(environ, start_response):
        situation.view(ran)
        if situation.raises:
            raise LookupError
        status = situation.status if situation.status in (200, 404) else 200
        start_response(f"{status} Text", [("Content-Type", "text/plain")])
        return [b"hello"]

    return app
