"""Redis or Valkey: the only importer of its library."""
