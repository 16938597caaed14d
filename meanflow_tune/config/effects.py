"""Settings without effect, or with another one than they promise: refused in new input.

`TrialConfig` itself accepts them, so that configurations stored by earlier revisions load and resume.
"""

from collections.abc import Iterator

from meanflow_tune.config.trial import TrialConfig
from meanflow_tune.weightings import Adaptive


def without_effect(config: TrialConfig) -> str | None:
    """The first setting of `config` that does nothing, its value and the remedy; None without any."""
    return next(_faults(config), None)


def _faults(config: TrialConfig) -> Iterator[str]:
    losses, sampler = config.losses, config.time_sampler
    active = ", ".join(losses.active)
    if losses.flow_matching is not None and len(losses.active) > 1:
        yield (
            f"losses.flow_matching beside {active.removesuffix(', flow_matching')} would train v_t as "
            "the average velocity of long intervals too; leave it out: the diagonal t = s is flow "
            "matching under every loss, and time_sampler.diagonal_share is its share."
        )
    elif losses.flow_matching is not None and sampler.diagonal_share < 1.0:
        yield (
            "losses.flow_matching belongs to the diagonal t = s, but time_sampler.diagonal_share is "
            f"{sampler.diagonal_share:g}; set it to 1, or take another loss."
        )
    elif losses.flow_matching is None and sampler.diagonal_share == 1.0:
        yield (
            f"time_sampler.diagonal_share 1 leaves no sample with t < s to losses {active}; take less "
            "(0.25 to 0.75 are usual), or losses.flow_matching alone."
        )
    batch = config.budget.global_batch
    if sampler.diagonal_share > 0.0 and sampler.diagonal_count(batch) == 0:
        yield (
            f"time_sampler.diagonal_share {sampler.diagonal_share:g} of budget.global_batch {batch} "
            f"rounds to no sample; take at least {1.0 / batch:g}, or 0."
        )
    if sampler.diagonal_share == 0.0 and sampler.diagonal_at != "start":
        yield (
            f"time_sampler.diagonal_at {sampler.diagonal_at!r} has no effect, because "
            "time_sampler.diagonal_share is 0; leave it out."
        )
    if config.x_source.kind != "student_jump" and not losses.looks_at_x_s:
        yield (
            f"x_source {config.x_source.kind!r} has no effect, because no loss of {active} looks at "
            "x_s; leave it out."
        )
    if losses.clamp is not None and losses.flow_matching is not None and len(losses.active) == 1:
        yield (
            f"losses.clamp {losses.clamp:g} has no effect, because flow matching has no correction; "
            "set it to null."
        )
    if losses.form == "sum" and len(losses.active) == 1:
        yield f"losses.form 'sum' has no effect on {active} alone; leave it out."
    if config.guidance is not None and config.guidance.scale == 1.0:
        yield "guidance.scale 1 is no guidance; set guidance to null."
    if config.channels_last and not config.model.convolutional:
        yield (
            f"channels_last has no effect, because the network {config.model.kind!r} has no convolutions; "
            "leave it out."
        )
    optimizer, weighting = config.optimizer, config.weighting
    if optimizer.warmup == 1.0 and optimizer.decay == "cosine":
        yield (
            "optimizer.decay 'cosine' has no effect, because optimizer.warmup is 1; set it to 'constant'."
        )
    epsilon = Adaptive.model_fields["epsilon"].default
    if isinstance(weighting, Adaptive) and weighting.power == 0.0 and weighting.epsilon != epsilon:
        yield (
            f"weighting.epsilon {weighting.epsilon:g} has no effect, because weighting.power is 0; "
            "leave it out."
        )
