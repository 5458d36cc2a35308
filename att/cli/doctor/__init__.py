"""The checks of ``att-server check``."""
