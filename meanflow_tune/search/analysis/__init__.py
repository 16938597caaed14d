"""Reading the result of a search."""
