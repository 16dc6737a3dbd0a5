"""Experiments as data. Each file with a `get_config` is one; its docstring is its claim: numbers, cost, command.

SLICE of a pre-training config is the topology of TPUs that `tools.plan` takes for it by default, and PLANNED, of a config
with an argument, the arguments that docs/tpu_plans.md has.
"""
