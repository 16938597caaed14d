"""Measurements behind scripts/benchmark.py: both sides of a comparison in one run."""
