"""How a search gets a Ray: joined or started, watched, and left."""
