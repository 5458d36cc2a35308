"""Configuration: settings, and the options they are read from."""
