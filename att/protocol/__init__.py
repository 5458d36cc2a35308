"""att.v1 as bytes and messages, for server and client alike."""
