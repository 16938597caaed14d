"""From a batch to a loss: the module that DDP wraps, the inputs of its targets, and velocity fields."""
