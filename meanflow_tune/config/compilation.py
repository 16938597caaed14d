"""What `compile: auto` chooses: compiled code where a trial is long enough to earn its compilation.

From the configuration alone, so that a trial has one choice on every host and after every resume: compiled
code rounds otherwise than eager code.
"""

from dataclasses import dataclass

from meanflow_tune.models import Model


@dataclass(frozen=True)
class CompileChoice:
    """Whether the networks of a trial are compiled, and why, as a sentence without a full stop."""

    compiled: bool
    reason: str

    def __str__(self) -> str:
        return f"{'compiled' if self.compiled else 'eager'}: {self.reason}"


def choose(setting: bool | str, model: Model, steps: int) -> CompileChoice:
    """By the setting `compile`, the student's network and the number of optimiser steps."""
    if isinstance(setting, bool):
        return CompileChoice(setting, f"compile is {str(setting).lower()}")
    dropout = getattr(model, "dropout", 0.0)
    if dropout > 0.0:
        return CompileChoice(False, f"model.dropout is {dropout:g}, whose masks need eager code")
    after = model.compile_pays_after
    if after is None:
        return CompileChoice(False, f"of networks {model.kind!r} compiling is not known to pay")
    trains = f"the trial trains {steps:,} steps, and compiling {model.kind!r} pays after {after:,}"
    return CompileChoice(steps >= after, trains)
