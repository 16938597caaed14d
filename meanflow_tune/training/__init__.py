"""Training: data-parallel, resumable, reported at rungs. Knows torch.distributed, not Ray."""
