"""Numbers as people read them."""

from __future__ import annotations

import pytest

from wsgi_defer.status._totals import of_all, shares
from wsgi_defer.status._words import count, memory, percent, safe, seconds, utc

from .fakes import NOW, worker


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0 s"), (-3, "0 s"), (0.00012, "0.12 ms"), (0.0098, "9.8 ms"),
        (0.0996, "100 ms"), (0.25, "250 ms"), (0.9996, "1.0 s"), (59.9, "59.9 s"),
        (59.97, "1 min 0 s"), (3599.6, "1 h 0 min"), (7384, "2 h 3 min"),
        (86399.9, "1 d 0 h"), (200_000, "2 d 7 h"),
    ],
)  # fmt: skip
def test_seconds(value, text):
    assert seconds(value) == text


def test_the_others():
    assert (count(None), count(12345)) == ("-", "12,345")
    assert (memory(None), memory(82_400_000), memory(1_500_000_000)) == (
        "-", "82 MB", "1.5 GB",
    )  # fmt: skip
    assert (percent(0), percent(0.004), percent(0.5)) == ("0 %", "<1 %", "50 %")
    assert (utc(None), utc(NOW)) == ("-", "2027-01-15 08:00:00")
    assert safe("a\x1b\n" + "b" * 400) == "a\\x1b\\n" + "b" * 296 + "…"


def test_the_minute_of_threads():
    """Two of them have 2 seconds in a second; the parts are still those of 1."""
    assert shares([(1.5, 0.5), (0.0, 0.0)]) == (0.375, 0.125)
    busy = worker(minute=((1.5, 0.5),) * 60)
    assert of_all([busy, worker()]) == [(0.375, 0.125)] * 60
    assert of_all([]) == []
    assert shares([]) == (0, 0)
