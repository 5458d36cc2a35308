"""The chaos run: kill servers, database and clients at random, then compare the log with what clients received."""
