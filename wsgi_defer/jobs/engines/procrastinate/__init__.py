"""Jobs in PostgreSQL, by Procrastinate."""
