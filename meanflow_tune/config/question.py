"""The question of a study: one factor, and pairs of configurations that differ in nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meanflow_tune.config.trial import TrialConfig


@dataclass(frozen=True)
class Question:
    """Whether a factor of the configuration helps; the confirmation answers it by paired runs.

    text: the question, a sentence; factor: what is compared, with its article, such as "a second-order
    share". without, including: a configuration -> the same without, or with, the factor; one that is on that
    side already is returned as it is. They raise ValueError where there is no such configuration. families:
    a family of baselines without the factor -> the same family with it, where a space has both.
    """

    text: str
    factor: str
    without: Callable[[TrialConfig], TrialConfig]
    including: Callable[[TrialConfig], TrialConfig]
    families: Mapping[str, str] = field(default_factory=dict)

    def has(self, config: Mapping[str, Any]) -> bool:
        """Whether a resolved configuration has the factor."""
        plain = TrialConfig.from_dict(config)
        return self.without(plain) != plain

    def counterpart(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """The resolved configuration on the other side of the factor; None where there is none."""
        plain = TrialConfig.from_dict(config)
        try:
            other = self.without(plain)
            return (self.including(plain) if other == plain else other).to_dict()
        except ValueError:
            return None
