"""A configuration for gunicorn to copy. `gunicorn` in this directory reads it."""

from wsgi_defer.gunicorn import install

# The app: a module, and the name of the WSGI app in it.
wsgi_app = "examples.flask_app:app"

# Where it listens. Put nginx in front of it for anything but this machine.
bind = "127.0.0.1:8000"

# gunicorn's sync worker, made to run deferred calls after it has closed the connection.
# One request at a time for each worker, as in PHP-FPM: a worker that runs deferred
# calls takes no new request until they have ended. So have some workers more.
# With threads: "wsgi_defer.gunicorn.ThreadWorker"; for gevent: "...GeventWorker".
worker_class = "wsgi_defer.gunicorn.SyncWorker"
workers = 4

# A request may take this many seconds, and each deferred call as many again. After
# that, gunicorn takes the worker for stuck and kills it.
timeout = 60

# On TERM, a worker has this many seconds to finish its request and its calls. After
# that it is killed, so let it be longer than the calls of your longest request.
graceful_timeout = 60

# Errors, and what wsgi_defer logs, go to the terminal. So does each request.
errorlog = "-"
accesslog = "-"

# The last line: hooks by which no deferred call is lost in silence. They go after any
# that you define above.
install(globals())
