"""The paired sheet of samples: where they come from, how they are drawn, and the table they stand in."""
