"""The servers of the session are those of tests/engines."""

from ..engines.conftest import pytest_configure, servers

__all__ = ["pytest_configure", "servers"]
