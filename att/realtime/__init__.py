"""Delivery: who is connected here, and how a broadcast reaches them."""
