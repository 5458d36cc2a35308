"""Users, passwords, roles, rate limits and the history."""
