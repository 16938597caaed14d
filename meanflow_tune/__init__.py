"""meanflow_tune: hyper-parameter search for second-order MeanFlow training on a Ray cluster."""

__version__ = "0.1.0"
