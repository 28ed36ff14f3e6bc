"""The status page in Chromium."""

from __future__ import annotations

import http.client
import json

import pytest

from ..helpers import status_app
from ..helpers.waiting import OF_PROCESSES, until
from .chromium import PATH, WIDE, Chromium

pytestmark = pytest.mark.skipif(PATH is None, reason="there is no Chromium")
PHONE = (390, 800)


@pytest.fixture(scope="module")
def server():
    with status_app.serving() as server:
        retry_again(server)
        yield server


@pytest.fixture(scope="module")
def chromium():
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def url(server):
    return f"http://{server.url}/status"


@pytest.fixture(scope="module", autouse=True)
def unscripted(chromium, url):
    """Without JavaScript, opened now, as it takes its time: the page, and the page that
    does not come anew."""
    return [chromium.open(url + query, scripts=False) for query in ("", "?refresh=no")]


def retry_again(server):
    """Two jobs have failed, and one waits."""
    states = {"j-1": "failed", "j-2": "failed", "j-3": "queued"}
    (server.root / "jobs.json").write_text(json.dumps(states))


def send(server, target):
    connection = http.client.HTTPConnection(*server.address, timeout=OF_PROCESSES)
    connection.request("GET", target)
    assert connection.getresponse().read()
    connection.close()


@pytest.fixture
def page(chromium, url):
    """The page, live; whose browser has nothing to complain of, and asks only us."""
    page = chromium.open(url)
    page.shows("Live", "#live")
    yield page
    assert page.complaints == []
    asked = {each for each in page.requests if not each.startswith("data:")}
    assert {each.split("?")[0] for each in asked} == {url}


def updated(page):
    """Wait until it has asked, and been answered, from now on."""
    before = len(page.requests)
    until(lambda: len(page.requests) > before + 1, "two updates", OF_PROCESSES)


def test_a_call_that_runs_appears_and_goes(server, page):
    """Without a reload."""
    send(server, "/wait?appears")
    page.shows("status_app.wait", "#workers tbody")
    page.shows("after response", "#workers tbody")
    (server.root / "appears").touch()
    page.hides("status_app.wait", "#workers tbody")
    page.shows("status_app.wait", "#calls tbody")
    assert page.loads == 1


def test_a_failure_appears_and_its_text_is_no_markup(server, page):
    """Nor is the text of the exception there at all."""
    send(server, "/fail")
    page.shows("status_app.fail", "#failures tbody")
    assert "alert" not in page.text("main")


def test_nothing_is_asked_while_it_is_hidden(page):
    """Or paused, by keyboard here; then it goes on at once."""
    updated(page)
    page.run("document.getElementById('pause').focus()")
    page.key("Enter")
    page.shows("Paused", "#live")
    before = len(page.requests)
    # As if another tab were in front of it.
    page.run(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.key("Enter")
    page.shows("Pause", "#pause")
    until(lambda: len(page.requests) > before, "the update of the button")
    page.shows("Live", "#live")
    before = len(page.requests)
    page.run("new Promise(done => setTimeout(done, 1300))")
    assert len(page.requests) == before
    page.run(
        "delete document.hidden;document.dispatchEvent(new Event('visibilitychange'))"
    )
    until(lambda: len(page.requests) > before, "an update")


def test_retry(server, page):
    """By keyboard; the page says that it was done, and shows it."""
    retry_again(server)
    page.shows("j-1", "#jobs")
    page.run("document.querySelector('#failed-j-1 button').focus()")
    updated(page)
    where = "document.activeElement.getAttribute('aria-label')"
    assert page.run(where) == "Retry job j-1"  # the focus is where it was
    before = page.loads
    page.key("Enter")
    page.loaded(before)
    page.shows("The job is queued again.")
    until(
        lambda: page.run("document.querySelector('#failed-j-1') === null"),
        "the job to leave the list", OF_PROCESSES,
    )  # fmt: skip
    page.shows("j-2", "#jobs")
    jobs = json.loads((server.root / "jobs.json").read_text())
    assert jobs == {"j-1": "queued", "j-2": "failed", "j-3": "queued"}


def test_a_stranger_is_refused(chromium, url):
    """It comes through a proxy; and an open page says that it is not allowed."""
    page = chromium.open(url)
    page.shows("Live", "#live")
    headers = {"X-Forwarded-For": "127.0.0.1"}
    page.ask("Network.setExtraHTTPHeaders", headers=headers)
    page.shows("No longer allowed", "#live")
    page.go(url)
    assert "You may not see this page" in page.text("body")
    assert "Workers" not in page.text("body")


def test_a_server_that_is_away(chromium, url):
    """The page says so, and goes on when it is back."""
    page = chromium.open(url)
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.ask("Network.emulateNetworkConditions", offline=True, **offline)
    page.shows("No answer", "#live")
    page.ask("Network.emulateNetworkConditions", offline=False, **offline)
    page.shows("Live", "#live")


def test_everybody_can_use_it(server, page):
    """Contrast, roles, names and order, as axe-core sees them, in both schemes; and no
    part is wider than a phone."""
    axe = pytest.importorskip("tests.browser.axe")
    retry_again(server)
    send(server, "/fail")
    page.shows("status_app.fail", "#failures tbody")
    page.shows("j-2", "#jobs")
    for size in (WIDE, PHONE):
        for dark, ground in ((False, "rgb(246, 247, 249)"), (True, "rgb(18, 22, 27)")):
            page.look(size, dark)
            colour = "getComputedStyle(document.body).backgroundColor"
            assert page.run(colour) == ground
            assert axe.complaints(page) == []
        assert page.run("document.documentElement.scrollWidth") == size[0]


def test_the_order_of_the_keys(page):
    """What can be used is reached with the tab key, from above to below."""
    reached = []
    for _ in range(3):
        page.key("Tab")
        reached.append(page.run("document.activeElement.id"))
    assert reached == ["pause", "workers-table", "calls-table"]


def test_without_scripts(unscripted):
    """It says all, and comes anew by itself, until somebody stops that."""
    page, stopped = unscripted
    assert "Idle workers" in stopped.text("main")
    assert stopped.run("document.getElementById('pause').hidden")
    assert "Refresh each 5 seconds" in stopped.text("header")
    page.loaded(1)
    assert stopped.loads == 1
