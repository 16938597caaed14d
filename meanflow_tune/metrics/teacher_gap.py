"""Distance between the student's samples and the teacher's, latent by latent."""

from typing import ClassVar, Literal

from torch import Tensor

from meanflow_tune.metrics.base import MetricSettings, Reference, rows


class TeacherGap(MetricSettings):
    """Root mean square over samples and dimensions of x_student - x_teacher, from the same latents.

    The number of samples does not bias it, and its variance is small: short trials can be ranked.

    It says nothing about the teacher: a bad one may be easier to follow than a good one (an untrained
    one gives less than a trained one). Compare its values only between students of one teacher, and
    judge the teacher itself against held-out data.
    """

    needs_teacher: ClassVar[bool] = True

    kind: Literal["teacher_gap"] = "teacher_gap"

    def _value(self, samples: Tensor, reference: Reference) -> float:
        teacher_end = reference.teacher_end
        if teacher_end is None:
            raise ValueError(
                "metric 'teacher_gap' needs a teacher; give one, or leave the metric out."
            )
        if samples.shape != teacher_end.shape:
            raise ValueError(
                "samples and teacher_end must have one shape (the same latents), but got "
                f"({tuple(samples.shape)}, {tuple(teacher_end.shape)})"
            )
        return float((rows(samples) - rows(teacher_end)).square().mean().sqrt())
