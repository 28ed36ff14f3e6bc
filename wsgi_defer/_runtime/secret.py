"""Random bytes that all processes share which were forked after the import.

``wsgi_defer.gunicorn`` imports it, and so gunicorn's master has it before it forks: a
form that one worker gave out is known to the others.
"""

import os

SECRET = os.urandom(32)
