"""Deferred calls, from ``defer()`` to the drain. Nothing here knows a server.

One rule holds in every file, and in ``pools/`` too. A call keeps what it raised, for
``result()``. Its traceback leads to every frame that the exception passed
through. If one of these frames kept the call in a local variable, they would form a
cycle, and the request with all its objects would stay in memory until the garbage
collector came. So a frame that an exception may leave deletes its names for the call
first; the comment there is ``# frame cycle``.
"""
