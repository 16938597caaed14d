"""Prints the links to the studies in MLflow's database, for `make ui`: `pages DATABASE SERVER`."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from meanflow_tune.tracking.runs_view import VIEW_TAG, runs_page

_QUERY = """
SELECT name, experiments.experiment_id FROM experiments JOIN experiment_tags
ON experiments.experiment_id = experiment_tags.experiment_id
WHERE key = ? AND lifecycle_stage = 'active' ORDER BY experiments.last_update_time DESC
"""


def links(database: Path, server: str) -> list[str]:
    """One line per study, the newest first; empty where there is no database yet."""
    if not database.is_file():
        return []
    with closing(
        sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    ) as connection:
        rows = connection.execute(_QUERY, (VIEW_TAG,)).fetchall()
    return [f"{name}: {runs_page(str(number), server)}" for name, number in rows]


if __name__ == "__main__":
    for line in links(Path(sys.argv[1]), sys.argv[2]):
        print(line, flush=True)
