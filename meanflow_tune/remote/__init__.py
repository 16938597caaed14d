"""A storage in an object store: each host works in a local copy of it."""
