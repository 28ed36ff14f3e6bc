import pytest

from .fakes import figures


@pytest.fixture
def show(monkeypatch):
    """Have the page show a snapshot: that of the fakes, or what is changed in it."""

    def show(**more):
        monkeypatch.setattr("wsgi_defer.status._page.snapshot", lambda: figures(**more))

    show()
    return show
