"""The configuration of a trial: everything that determines a training run, as validated data."""

from meanflow_tune.config.parts import Budget, Ema, Evaluation, Optimizer, TeacherConfig
from meanflow_tune.config.question import Question
from meanflow_tune.config.ramps import ramps_end
from meanflow_tune.config.sources import Annealed, Guidance, StudentJump, TeacherOde, XSource
from meanflow_tune.config.trial import TrialConfig

# Weightings belong to their own family; space files of existing studies import them from here.
from meanflow_tune.weightings import Adaptive, LogVariance, PseudoHuber
from meanflow_tune.weightings import Adaptive as Weighting

__all__ = [
    "Adaptive",
    "Annealed",
    "Budget",
    "Ema",
    "Evaluation",
    "Guidance",
    "LogVariance",
    "Optimizer",
    "PseudoHuber",
    "Question",
    "StudentJump",
    "TeacherConfig",
    "TeacherOde",
    "TrialConfig",
    "Weighting",
    "XSource",
    "ramps_end",
]
