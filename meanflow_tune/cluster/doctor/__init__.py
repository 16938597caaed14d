"""What a cluster lacks for a search, found before the search does."""
