"""Samplers and schedulers replayed on a finished study."""
