"""What makes the tables and data of the README: python -m tools.NAME --help."""
