"""Earlier names of modules, for command lines that have them."""
