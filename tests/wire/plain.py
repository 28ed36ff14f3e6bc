"""An empty configuration for gunicorn, so that it takes none from ``./``."""
