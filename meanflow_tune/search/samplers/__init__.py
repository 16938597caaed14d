"""Stateless samplers: a suggestion is a function of seed, trial number and study."""
