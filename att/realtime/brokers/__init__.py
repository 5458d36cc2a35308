"""Brokers: how nodes announce events to each other."""
