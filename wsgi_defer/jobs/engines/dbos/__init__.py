"""Jobs in a SQLite file or in Postgres, by DBOS."""
