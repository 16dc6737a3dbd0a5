"""The step of training and what it is made of."""
