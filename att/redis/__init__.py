"""Redis or Valkey. Only this package imports the library."""
