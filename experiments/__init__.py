"""One file a figure or table: ``python -m experiments.NAME PRESET``."""
