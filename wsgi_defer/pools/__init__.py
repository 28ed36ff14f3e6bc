"""Several things at the same time, inside a request: pools that end with it.

::

    app = DeferMiddleware(app, pools={
        "default": ThreadPool(8, max_wait=30),
        "external_api": ThreadPool(16, max_wait=10),
        "cpu": ProcessPool(4, max_wait=60),
        "io": AsyncPool(100),
    })

    def view():
        stock = pool("external_api").submit(fetch_stock, 42)
        price = pool("external_api").submit(fetch_price, 42)
        return stock.result(timeout=2), price.result(timeout=2)

The rules, in one place:

- A pool is made in each process, after the fork, when it is first used.
- ``submit()`` returns a ``concurrent.futures.Future``. Its ``result()`` raises what the
  task raised: the same object, with its traceback; from another process a copy, with
  the traceback as text in its cause. You may ask for a result any number of times.
- ``max_wait`` of the pool covers waiting and running, counted from ``submit()``. After
  that the future fails with ``PoolTimeoutError``. It is one bound, because the client
  waits for both.
- gunicorn kills a sync worker if its request takes longer than ``timeout``, and any
  worker ``graceful_timeout`` after TERM. With the hooks of ``wsgi_defer.gunicorn``,
  ``result()``, ``map()`` and ``gather()`` raise ``PoolTimeoutError`` just before that.
  ``wait()`` and ``as_completed()`` of ``concurrent.futures`` know nothing of it, nor of
  ``PoolTimeoutError``: give them a timeout.
- ``result(timeout)`` bounds its caller. The task keeps running, and you may ask again
  until ``max_wait`` is over or the request ends. If you will not ask, ``cancel()`` it.
- Tasks that nobody has awaited when the request ends are cancelled. The request ends
  when its calls have run, so calls may await tasks of the view. Without calls, it ends
  when the app has returned a finished list, or the server has closed the body.
- A task that runs on a thread cannot be cancelled. It is abandoned, and delays neither
  the response nor the next request nor the end of the worker.
- A ``sys.exit()`` in a task is raised where its result is asked for, and may end the
  worker there, as in the view itself; from another process, it is a ``RemoteError``.
- A task that waits for another task of its own pool can deadlock, when such tasks take
  all places. ``max_wait`` ends that.
- Callbacks of a future run in the thread that ends the task, as in all executors, and
  should be short. Those of a task that was too late have a thread of their own.
- When the process exits, its deferred calls may use the pools until the last call has
  run. Then the pools close: their tasks are cancelled, and ``submit()`` raises
  ``PoolClosedError``.

All of it may be used from any thread that carries the request's context.
"""

from ._kinds import AsyncPool, ProcessPool, ThreadPool
from ._pool import Pool, gather, pool

__all__ = ["AsyncPool", "Pool", "ProcessPool", "ThreadPool", "gather", "pool"]
