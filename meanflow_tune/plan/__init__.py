"""What is to be done, checked before Ray starts."""
