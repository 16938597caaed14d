"""The process of a command: the home that it needs, and the child in which a search on a cluster runs."""
