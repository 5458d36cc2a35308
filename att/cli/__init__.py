"""The command ``att-server``."""
