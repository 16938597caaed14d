"""Time, memory and error of exact derivatives."""
