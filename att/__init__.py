"""att: the back end for people and groups that an application puts on its own PostgreSQL."""

__version__ = "0.3.0"
