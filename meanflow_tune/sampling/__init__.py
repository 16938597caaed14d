"""A trained student, wherever it is: a checkpoint, a trial, best.json, an export, or MLflow."""

from meanflow_tune.sampling.errors import StudentError as StudentError
from meanflow_tune.sampling.student_sources import load_student as load_student
