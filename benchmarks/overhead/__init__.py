"""What a search costs besides training."""
