"""The Celery app, configured so that no job is lost."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.utils.url import parse_ssl_cert_reqs

from .._engine import Served

TASK = "wsgi_defer.job"
DUE = "wsgi_defer_due"  # a header: the Unix time since when an attempt could run
# What a URL may say of TLS.
TLS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs",
       "ssl_check_hostname", "ssl_server_hostname"}  # fmt: skip
HEARTBEAT = 30  # so a machine that vanishes is noticed after 60 to 90 seconds
STATUS_KEPT = 7 * 24 * 3600  # seconds that a result backend keeps a job's status


def make_app(url: str, jobs: Served, timeout: float | None) -> Celery:
    """A Celery app with one queue; ``timeout`` is for clients."""
    url, tls = apart(url)
    app = Celery("wsgi_defer", broker=url, backend=jobs.results, set_as_current=False)
    # Dots have a meaning in a routing key. And "#.b", which delayed jobs are routed by,
    # would also match those of the queue "a.b".
    key = jobs.queue.replace(".", "/")
    exchange = Exchange(jobs.queue, type="topic")  # delays cannot use a direct one
    kind = {"x-queue-type": "quorum"}
    # Without confirmations, nobody notices a lost job.
    options: dict[str, Any] = {"confirm_publish": True}
    if timeout:
        options |= {"max_retries": 0, "read_timeout": timeout, "write_timeout": timeout}
    app.conf.update(
        task_queues=[Queue(jobs.queue, exchange, key, queue_arguments=kind)],
        task_default_queue=jobs.queue,
        task_default_exchange=jobs.queue,
        task_default_exchange_type="topic",
        task_default_routing_key=key,
        task_create_missing_queues=False,
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        result_accept_content=["json"],
        result_expires=STATUS_KEPT,
        task_ignore_result=True,  # we write what is kept
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # A delayed job waits at the broker, in queues of Celery's. In the worker it
        # would be unacknowledged, which RabbitMQ ends after 30 minutes.
        broker_native_delayed_delivery_queue_type="quorum",
        broker_transport_options=options,
        broker_use_ssl=tls,
        broker_connection_timeout=timeout or 4,
        # RabbitMQ gives up a worker that was silent for two to three times as long.
        broker_heartbeat=HEARTBEAT,
        broker_connection_retry_on_startup=True,
        # Its signal is the one that a service manager sends to all processes.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        redis_socket_timeout=timeout or 10,
        redis_socket_connect_timeout=timeout or 10,
        redis_retry_on_timeout=False,
        result_backend_transport_options={
            "retry_policy": {"max_retries": 0, "timeout": timeout or 10}
        },
    )
    if (jobs.results or "").startswith("rediss://"):
        # What the URL says prevails. Celery has no default.
        app.conf.redis_backend_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


def unknown(url: str) -> list[str]:
    """What a broker's URL says of TLS, and must not.

    kombu would take "ssl" for all options at once, and so check no host's name.
    """
    parts = urlsplit(url)
    known = TLS if parts.scheme == "amqps" else set()
    names = (name for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    return sorted(
        name for name in names
        if name == "ssl" or (name.startswith("ssl_") and name not in known)
    )  # fmt: skip


def apart(url: str) -> tuple[str, dict[str, Any] | None]:
    """A broker's URL without what it says of TLS, and that as py-amqp takes it.

    The names are those in URLs of Redis, and ``ssl_server_hostname``, for a host that
    is reached by another name. kombu (5.7) would pass them on under these names, which
    py-amqp refuses. And without a host's name, py-amqp takes any valid certificate,
    whoever has it.
    """
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return url, None
    tls: dict[str, Any] = {}
    others = []
    for name, value in parse_qsl(parts.query):
        if name.startswith("ssl_"):
            tls[name.removeprefix("ssl_")] = value
        else:
            others.append((name, value))
    reqs = parse_ssl_cert_reqs(tls.pop("cert_reqs", "required"))
    wanted = tls.pop("check_hostname", "true").lower() != "false"
    if reqs != ssl.CERT_NONE and wanted:
        tls.setdefault("server_hostname", parts.hostname)
    tls["cert_reqs"] = reqs
    return parts._replace(query=urlencode(others)).geturl(), tls
