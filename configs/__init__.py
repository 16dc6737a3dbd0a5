"""Experiments as data. Each file with a `get_config` is one; its docstring is its claim: numbers, cost, command.

The docstring of a pre-training config names a slice of TPUs; where it is the slice 'of each', PLANNED are the runs that
docs/tpu_plans.md has.
"""
