"""From a batch to a loss: the module that DDP wraps, and what its targets are made of."""
