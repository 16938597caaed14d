"""The state of a search, as its driver leaves it for the live view, status.json and `--status`."""
