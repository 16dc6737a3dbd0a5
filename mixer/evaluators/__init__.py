"""Evaluators: a split's batches and a model's parameters in, numbers and how many examples they rest on out."""
