"""Jobs on Redis, by RQ."""
