"""What a search leaves on disk, and whether there is room for the rest of it."""
