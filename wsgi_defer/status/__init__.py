"""The status page: what the workers do, what became of calls and jobs.

::

    from wsgi_defer.status import StatusPage, loopback_only

    page = StatusPage(allow=loopback_only)

``page`` is a WSGI app; ``docs/status.md`` shows how to mount it in each framework.
"""

from ._allow import loopback_only
from ._page import StatusPage

__all__ = ["StatusPage", "loopback_only"]
