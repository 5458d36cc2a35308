"""The chaos run: servers, database and clients are killed at random, then the log is compared with what was heard."""
