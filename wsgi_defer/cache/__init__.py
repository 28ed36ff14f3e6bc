"""Answer with the value that is cached, and renew it after the response.

``flexible()`` and ``@flexible_cache`` take a cache of cachelib, Flask-Caching, Django
or dogpile.cache, or a client of redis-py; ``RedisStore`` is such a client with a format
of your own.
"""

from .._caches.store import RedisStore
from ._decorator import flexible_cache
from ._flexible import flexible

__all__ = ["RedisStore", "flexible", "flexible_cache"]
