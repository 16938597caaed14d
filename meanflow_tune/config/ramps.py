"""When the ramps of a configuration are over, so that a trial is not judged before it trains what it is."""

from meanflow_tune.config.trial import TrialConfig


def ramps_end(config: TrialConfig) -> float:
    """The progress in [0, 1] from which every loss has its whole share."""
    ramps = (loss.ramp for loss in config.losses.active.values())
    return max((min(1.0, ramp.start + ramp.length) for ramp in ramps if ramp.length), default=0.0)
