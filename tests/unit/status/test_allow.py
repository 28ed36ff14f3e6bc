"""Nobody sees the page unless the app says so."""

from __future__ import annotations

import pytest

from wsgi_defer.status import StatusPage, loopback_only

HERE = {
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_HOST": "localhost:8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
}


@pytest.mark.parametrize("allow", [None, True, "ada"])
def test_somebody_has_to_decide_who_may_see_it(allow):
    """The error says why, and what to write."""
    with pytest.raises(TypeError, match=r"no default.*allow=loopback_only"):
        StatusPage(allow=allow)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"REMOTE_ADDR": "127.8.8.8"},
        {"REMOTE_ADDR": "::1", "HTTP_HOST": "[::1]:8000"},
        {"REMOTE_ADDR": "::ffff:127.0.0.1"},
        {"REMOTE_ADDR": ""},  # a unix socket, under gunicorn
        {"HTTP_HOST": "127.0.0.1"},
        {"HTTP_HOST": "LOCALHOST"},
    ],
)
def test_this_machine(more):
    assert loopback_only({**HERE, **more})


@pytest.mark.parametrize(
    "more",
    [
        {"REMOTE_ADDR": "10.0.0.1"},
        {"REMOTE_ADDR": "::ffff:10.0.0.1"},
        {"REMOTE_ADDR": "localhost"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_X_FORWARDED_FOR": ""},
        {"HTTP_X_FORWARDED_PROTO": "https"},
        {"HTTP_FORWARDED": "for=127.0.0.1"},
        {"HTTP_X_REAL_IP": "127.0.0.1"},
        {"HTTP_VIA": "1.1 proxy"},
        {"SERVER_PROTOCOL": "HTTP/1.0"},  # nginx, as it comes
        {"HTTP_HOST": "shop.example"},  # a proxy that passes it on, or a rebound name
        {"HTTP_HOST": "localhost.shop.example"},
        {"HTTP_HOST": "127.0.0.1.shop.example"},
        {"HTTP_HOST": ""},
    ],
)
def test_elsewhere(more):
    assert not loopback_only({**HERE, **more})


@pytest.mark.parametrize("missing", ["REMOTE_ADDR", "HTTP_HOST"])
def test_nobody_knows_where(missing):
    known = {name: value for name, value in HERE.items() if name != missing}
    assert not loopback_only(known)
