"""Running the server: drain, gunicorn, logs, metrics."""
