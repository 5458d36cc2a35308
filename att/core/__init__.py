"""Rules and tools without I/O that any package may use."""
