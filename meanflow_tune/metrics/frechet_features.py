"""Fréchet distance in the features of a classifier of the same data."""

from typing import Literal

from torch import Tensor

from meanflow_tune.metrics.base import MetricSettings, NonFiniteSamples, Reference, rows
from meanflow_tune.metrics.frechet import frechet_distance


class FrechetFeatures(MetricSettings):
    """Fréchet distance between features of samples and of held-out data.

    Not comparable with published FID, which uses other features. A small classifier may rank noise
    above blur: use it together with a metric of the samples themselves.
    """

    kind: Literal["frechet_features"] = "frechet_features"

    def _value(self, samples: Tensor, reference: Reference) -> float:
        features = reference.features
        if features is None:
            raise ValueError(
                "metric 'frechet_features' needs `features`, but the reference has none; train a "
                "classifier on labelled data, or leave the metric out of the evaluation"
            )
        mine, theirs = rows(features(samples)), rows(features(reference.held_out))
        if not mine.isfinite().all():
            raise NonFiniteSamples("samples so far off that their features are not finite")
        return frechet_distance(mine, theirs)
