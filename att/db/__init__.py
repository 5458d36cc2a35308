"""The database: its tables, its driver, its migrations, and the one that att brings along."""
