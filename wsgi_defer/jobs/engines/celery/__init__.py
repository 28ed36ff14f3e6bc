"""Jobs on RabbitMQ, by Celery."""
