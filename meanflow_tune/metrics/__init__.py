"""Metrics of generated samples; for every one of them, lower is better."""

from typing import Annotated

from meanflow_tune.metrics.base import MetricSettings as MetricSettings
from meanflow_tune.metrics.base import NonFiniteSamples as NonFiniteSamples
from meanflow_tune.metrics.base import Reference as Reference
from meanflow_tune.metrics.classifier import Classifier as Classifier
from meanflow_tune.metrics.classifier import build_classifier as build_classifier
from meanflow_tune.metrics.classifier import features as features
from meanflow_tune.metrics.classifier import train_classifier as train_classifier
from meanflow_tune.metrics.frechet_features import FrechetFeatures as FrechetFeatures
from meanflow_tune.metrics.frechet_pixels import FrechetPixels as FrechetPixels
from meanflow_tune.metrics.sliced_wasserstein import SlicedWasserstein as SlicedWasserstein
from meanflow_tune.metrics.teacher_gap import TeacherGap as TeacherGap
from meanflow_tune.settings import OneOf

METRIC_KINDS = MetricSettings.members()
Metric = Annotated[MetricSettings, OneOf(METRIC_KINDS)]
