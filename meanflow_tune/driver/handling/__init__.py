"""Handling a study: what other terminals ask of it, its dashboard, its deletion, and a command at its end."""
