"""Everything that a user sees or opens."""
