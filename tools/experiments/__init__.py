"""What makes the tables and data of README.md and docs/: python -m tools.NAME --help."""
