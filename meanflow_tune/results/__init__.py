"""The results of a search: the files it writes, and `load`, which reads them as pandas frames.

>>> from meanflow_tune import results
>>> study = results.load("runs/second_order")
>>> study.trials, study.metrics  # results.parquet and metrics.parquet; docs/results.md lists their columns
"""

from meanflow_tune.results.errors import ResultsError as ResultsError
from meanflow_tune.results.frames import StudyTables as StudyTables
from meanflow_tune.results.frames import load as load
from meanflow_tune.results.frames import tabulate as tabulate
