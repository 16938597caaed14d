"""Times and pairs drawn by the naive code of their papers with numpy, in our direction: noise at 0."""

import numpy as np
from numpy.random import Generator

from meanflow_tune import time_samplers as ours
from meanflow_tune.time_samplers import SingleTime, TimeSamplerSettings
from tests.support.times.statistics import Array


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def papers_single(time: SingleTime, n: int, rng: Generator) -> Array:
    """n times as the papers' codes draw them, in our direction: 1 minus theirs where noise is at 1."""
    u = rng.random(n)
    if isinstance(time, ours.Uniform):
        return u
    if isinstance(time, ours.LogitNormal):
        return 1.0 - sigmoid(rng.normal(-time.mean, time.std, n))
    if isinstance(time, ours.Beta):
        return rng.beta(time.a, time.b, n)
    if isinstance(time, ours.Mode):
        return 1.0 - u - time.scale * (np.cos(0.5 * np.pi * u) ** 2 - 1.0 + u)
    if isinstance(time, ours.CosMap):
        return 1.0 - 1.0 / (np.tan(0.5 * np.pi * u) + 1.0)
    if isinstance(time, ours.UShaped):
        return _rejected(time.a, time.lowest, n, rng)
    if isinstance(time, ours.Grid):
        return np.rint(papers_single(time.base, n, rng) * time.intervals) / time.intervals
    assert isinstance(time, ours.Shifted), time
    theirs, alpha = 1.0 - papers_single(time.base, n, rng), 1.0 / time.factor
    return 1.0 - alpha * theirs / (1.0 + (alpha - 1.0) * theirs)


def papers_pairs(sampler: TimeSamplerSettings, n: int, rng: Generator) -> list[Array]:
    """t, s and s - t off the diagonal, drawn naively with numpy and the papers' own codes."""
    if isinstance(sampler, ours.EndFirst):
        s = rng.beta(sampler.a, sampler.b, n)
        t = rng.uniform(0.0, s)
    elif isinstance(sampler, ours.GapFirst):
        gap = rng.beta(sampler.a, sampler.b, n)
        t = rng.uniform(0.0, 1.0 - gap)
        s = t + gap
    elif isinstance(sampler, ours.Nested):
        t = papers_single(sampler.start, n, rng)
        s = rng.uniform(t, 1.0)
    elif isinstance(sampler, ours.Product):
        theirs = 1.0 - papers_single(sampler.start, n, rng)
        t, s = 1.0 - theirs, 1.0 - theirs * papers_single(sampler.factor, n, rng)
    elif isinstance(sampler, ours.SeparatePairs):
        first, second = (1.0 - papers_single(x, n, rng) for x in (sampler.start, sampler.end))
        later = np.maximum(first, second) if sampler.pairing == "sorted" else first
        t, s = 1.0 - later, 1.0 - np.minimum(first, second)
    else:
        kinds = {kind.model_fields["kind"].default: kind for kind in ours.SINGLE_TIME_KINDS}
        single = kinds[sampler.kind]
        settings = {name: getattr(sampler, name) for name in single.model_fields}
        two = papers_single(single.model_validate(settings), 2 * n, rng).reshape(2, n)
        t, s = two.min(axis=0), two.max(axis=0)
    return [x.round(7) for x in (t, s, s - t)]


def _rejected(a: float, lowest: float, n: int, rng: Generator) -> Array:
    """Draws with density ∝ e^{a (x - lowest)} + e^{-a (x - lowest)} in [0, 1], by rejection."""

    def density(x: Array) -> Array:
        return np.exp(a * (x - lowest)) + np.exp(-a * (x - lowest))

    most, found = density(np.array([0.0, 1.0])).max(), np.empty(0)
    while len(found) < n:
        x = rng.random(4 * n)
        found = np.concatenate([found, x[rng.random(4 * n) * most < density(x)]])
    return found[:n]
