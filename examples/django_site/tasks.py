"""The same with Django's tasks, from Django 6.0 on."""

from django.tasks import task


@task
def count(address):
    """Runs after the response, in the worker; ``TASKS`` in the settings says so."""
    print(f"counted {address}", flush=True)
