"""``python -m att``."""

from att.cli import main

main()
