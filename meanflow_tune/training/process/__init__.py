"""The process that trains: the memory that it keeps, and how long it takes to start."""
