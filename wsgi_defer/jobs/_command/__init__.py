"""What ``python -m wsgi_defer.jobs`` does: its arguments, and a module per task."""
