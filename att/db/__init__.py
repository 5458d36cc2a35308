"""The database: driver, tables, migrations and the embedded server."""
