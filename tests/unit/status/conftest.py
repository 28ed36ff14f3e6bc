import pytest

from .fakes import figures


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """How often recording has begun; it does not, as it would go on in other tests."""
    begun = []
    monkeypatch.setattr("wsgi_defer.status._page.record", lambda: begun.append(True))
    return begun


@pytest.fixture
def show(monkeypatch):
    """Have the page show a snapshot: that of the fakes, or what is changed in it."""

    def show(**more):
        monkeypatch.setattr("wsgi_defer.status._page.snapshot", lambda: figures(**more))

    show()
    return show
