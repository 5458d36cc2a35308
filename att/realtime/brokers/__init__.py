"""Brokers between nodes: the interface, and one module for each implementation."""
