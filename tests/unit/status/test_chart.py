"""The picture of the last minute."""

from __future__ import annotations

import re

import pytest

from wsgi_defer.status._chart import STEPS, chart, coarse

from .fakes import QUIET


def bars(minute):
    """What is drawn: x, bottom, width and height of each bar, for both colours."""
    found = {}
    for kind, path in re.findall(r'class="(\w+)" d="(.*?)"', chart(minute)):
        numbers = re.findall(r"M(\d+) (\d+)h(\d+)v-(\d+)h-\3z", path)
        found[kind] = [tuple(map(int, each)) for each in numbers]
        assert len(path) == 0 or found[kind]
    return found


def test_nothing_is_drawn_for_an_idle_minute():
    assert bars(QUIET) == {"request": [], "after": []}


def test_neighbours_are_one_bar():
    """What is after the response stands on what is in a request."""
    assert bars(QUIET[:50] + ((0.5, 0.25),) * 10) == {
        "request": [(50, STEPS, 10, 10)],
        "after": [(50, STEPS - 10, 10, 5)],
    }


@pytest.mark.parametrize("pair", [(1, 0), (0, 1), (0.5, 0.5), (3, 1), (0.01, 0.99)])
def test_no_bar_is_higher_than_the_picture(pair):
    drawn = bars((pair,) * 60)
    for _, bottom, _, height in drawn["request"] + drawn["after"]:
        assert 0 < height <= bottom <= STEPS


def test_what_took_little_time_is_seen():
    assert bars(((0.004, 0.004),) * 60)["after"]


def test_in_words():
    """For those who do not see it."""
    picture = chart(((0.25, 0.5),) * 60, "Worker 7: ")
    assert 'role="img"' in picture
    assert (
        'aria-label="Worker 7: 25 % request, 50 % after response, 25 % idle"' in picture
    )


def test_a_third_of_the_bars():
    assert coarse(((0.75, 0.0), (0.0, 1.5), (0.0, 0.0)) * 20) == [(0.25, 0.5)] * 20
