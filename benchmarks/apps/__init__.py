"""The apps of ``served.py``: a hundred bytes, and a function that does nothing."""

BODY = b"x" * 100


def no_op():
    """What runs after the response."""
