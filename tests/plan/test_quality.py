"""Figures beside the samples of a trial: what cannot be read is left out, and ends nothing."""

from pathlib import Path

import pytest

from meanflow_tune.plan.quality import Quality, quality_of
from tests.support.records import record, with_samples

FIGURES = Quality({"teacher_gap@1": 1.0}, {"data": {"w": 2.0}}, (1, 2))
HEADER = b"PK\x01\x02"  # of an entry in the directory of a zip file


def test_the_figures_of_a_whole_file(tmp_path: Path) -> None:
    plain = record(0, "completed", 1.0)
    made = with_samples(plain, tmp_path / "x.npz", FIGURES.euler, FIGURES.held_out, (1, 2))
    assert quality_of(made) == FIGURES


@pytest.mark.parametrize("offset", [6, 8, 10, 20, 24, 42])
def test_a_damaged_file_has_no_figures_and_ends_nothing(tmp_path: Path, offset: int) -> None:
    path, plain = tmp_path / "x.npz", record(0, "completed", 1.0)
    made = with_samples(plain, path, FIGURES.euler, FIGURES.held_out, (1, 2))
    data = path.read_bytes()
    for header in range(data.count(HEADER)):
        place = [at for at in range(len(data)) if data.startswith(HEADER, at)][header] + offset
        path.write_bytes(data[:place] + b"\xfe\xff" + data[place + 2 :])
        assert quality_of(made) in (FIGURES, Quality())
