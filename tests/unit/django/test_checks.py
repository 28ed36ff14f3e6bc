"""What ``manage.py check`` says of the settings."""

from __future__ import annotations

import logging

import pytest
from django.core.checks import run_checks
from django.test.utils import override_settings

from wsgi_defer.django._checks import check_settings

from .site import DEFER


def found(**changed):
    with override_settings(**changed):
        return [message.id for message in check_settings()]


def test_all_is_well():
    """They are registered, and find nothing in a good site."""
    assert check_settings in run_checks.__self__.get_checks()
    assert found() == []


@pytest.mark.parametrize(
    "options", [{"max_cals": 1}, {"max_calls": 0}, {"around": 5}, 3, [1]]
)
def test_options(options):
    """One that is unknown, or wrong, is an error."""
    assert found(WSGI_DEFER=options) == ["wsgi_defer.E001"]


def test_the_unknown_option_is_named():
    """The user reads which."""
    with override_settings(WSGI_DEFER={"max_cals": 1}):
        [error] = check_settings()
    assert "max_cals" in error.msg


def test_middleware():
    """It is there, and the first."""
    assert found(MIDDLEWARE=[]) == ["wsgi_defer.W001"]
    others = "django.middleware.common.CommonMiddleware"
    assert found(MIDDLEWARE=[others, DEFER]) == ["wsgi_defer.W002"]
    assert found(MIDDLEWARE=(DEFER, others)) == []


@pytest.mark.parametrize("given", [{"version": 1}, {}])
def test_logging(given):
    """A configuration that disables all loggers leaves this one, see test_report.py."""
    assert found(LOGGING=given) == []


def test_a_logger_that_is_silent(monkeypatch):
    """Whoever has disabled it."""
    monkeypatch.setattr(logging.getLogger("wsgi_defer"), "disabled", True)
    assert found() == ["wsgi_defer.W003"]
