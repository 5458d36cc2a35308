"""Sessions: their stores, their cache and their revocation."""
