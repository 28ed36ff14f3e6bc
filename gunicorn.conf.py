"""A configuration for gunicorn to copy. `gunicorn` in this directory reads it."""

from wsgi_defer.gunicorn import install

# The app: a module, and the name of the WSGI app in it.
wsgi_app = "examples.flask_app:app"

# Where it listens. Put nginx in front of it for anything but this machine.
bind = "127.0.0.1:8000"

# gunicorn's sync worker, made to run deferred calls after it has closed the connection.
# Each worker takes one request at a time, as in PHP-FPM: while it runs deferred calls,
# it takes no new request. So plan a few extra workers.
# With threads: "wsgi_defer.gunicorn.ThreadWorker"; for gevent: "...GeventWorker".
worker_class = "wsgi_defer.gunicorn.SyncWorker"
workers = 4

# A request may take this many seconds, and each deferred call as many again. After
# that, gunicorn considers the worker stuck and kills it.
timeout = 60

# On TERM, a worker has this many seconds to finish its request and its calls. After
# that it is killed, so choose more than the calls of your longest request take.
#
# Whatever stops gunicorn must wait longer than that, or it kills master and workers
# first, and nobody is left to name what is lost. At TERM, each worker logs how many
# calls it still has, and which one runs. For the 60 seconds here:
#   docker stop -t 70                                         (10 by default)
#   compose: stop_grace_period: 70s                           (10 by default)
#   Kubernetes: terminationGracePeriodSeconds: 70             (30 by default; preStop
#     takes its time from it, too)
#   systemd: TimeoutStopSec=70, KillMode=mixed                (90 by default)
graceful_timeout = 60

# Errors, and what wsgi_defer logs, go to the terminal. So does each request.
errorlog = "-"
accesslog = "-"

# The last line: with these hooks, no deferred call is lost silently. They run after any
# hooks that you define above.
install(globals())
