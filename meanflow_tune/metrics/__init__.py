"""Metrics of generated samples; lower is better in every one of them."""

from typing import Annotated

from pydantic import Field

from meanflow_tune.metrics.base import MetricSettings, NonFiniteSamples, Reference
from meanflow_tune.metrics.classifier import (
    Classifier,
    build_classifier,
    features,
    train_classifier,
)
from meanflow_tune.metrics.frechet_features import FrechetFeatures
from meanflow_tune.metrics.frechet_pixels import FrechetPixels
from meanflow_tune.metrics.sliced_wasserstein import SlicedWasserstein
from meanflow_tune.metrics.teacher_gap import TeacherGap

Metric = Annotated[
    TeacherGap | SlicedWasserstein | FrechetPixels | FrechetFeatures, Field(discriminator="kind")
]
METRIC_KINDS = (TeacherGap, SlicedWasserstein, FrechetPixels, FrechetFeatures)

__all__ = [
    "METRIC_KINDS",
    "Classifier",
    "FrechetFeatures",
    "FrechetPixels",
    "Metric",
    "MetricSettings",
    "NonFiniteSamples",
    "Reference",
    "SlicedWasserstein",
    "TeacherGap",
    "build_classifier",
    "features",
    "train_classifier",
]
