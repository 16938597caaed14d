"""Samplers without state of their own: a suggestion is a function of seed, number and study."""
