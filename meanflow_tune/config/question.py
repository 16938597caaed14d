"""The question of a study: one factor, and pairs of configurations that differ in nothing else."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from meanflow_tune.config.trial import TrialConfig

log = logging.getLogger(__name__)


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
        """Whether a resolved configuration has the factor, one that it cannot be taken from included."""
        plain = TrialConfig.from_dict(config)
        try:
            return self.without(plain) != plain
        except Exception:  # of a space's own code; see `check`
            return True

    def counterpart(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """The resolved configuration on the other side of the factor; None where there is none."""
        try:
            plain = TrialConfig.from_dict(config)
            other = self.without(plain)
            return (self.including(plain) if other == plain else other).to_dict()
        except ValueError:
            return None
        except Exception:  # of a space's own code; `check` saw none, and no search ends by this one
            log.warning("the question leaves out a configuration", exc_info=True)
            return None

    def check(self, config: TrialConfig) -> bool:
        """Whether a configuration has a counterpart. Raises ValueError where `without` or `including` does
        not do what it should; what they raise themselves, other than ValueError, propagates."""
        other = self._applied("without", config)
        if other is None:
            return False
        if other == config:
            other = self._applied("including", config)
            if other is None:
                return False
            if self._applied("without", other) == other:
                raise ValueError(
                    "`including` returns a configuration that `without` leaves as it is"
                )
        elif self._applied("without", other) != other:
            raise ValueError("`without`, applied twice, changes the configuration twice")
        return True

    def _applied(
        self, name: Literal["without", "including"], config: TrialConfig
    ) -> TrialConfig | None:
        try:
            found: object = getattr(self, name)(config)
        except ValueError:
            return None
        if not isinstance(found, TrialConfig):
            raise ValueError(f"`{name}` returns {found!r:.60}, not a TrialConfig")
        return found
