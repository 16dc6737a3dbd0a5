"""Experiments as data. Each file with a `get_config` is one; its docstring is its claim: numbers, cost, command."""
