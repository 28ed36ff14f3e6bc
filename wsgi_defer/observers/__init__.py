"""Who hears what becomes of each call: ``Observer``, and the log."""

from ._observer import Observer

__all__ = ["Observer"]
