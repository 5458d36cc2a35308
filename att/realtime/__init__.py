"""Delivery: the listeners of this node, and the way of a broadcast to them."""
