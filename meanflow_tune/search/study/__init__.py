"""The only writer of a study, and what changes a study as a whole."""
