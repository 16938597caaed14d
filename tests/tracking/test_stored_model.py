"""A model that an earlier revision logged still loads, and gives the same images.

`stored_model/` was logged when the package had another layout. Its copy of the package is left out, so
that it loads by the code of today, as it does in a process that has imported this package before.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from meanflow_tune.tracking.student_model import load_student

STORED = Path(__file__).parent / "stored_model"
EXPECTED: dict[str, Any] = json.loads((STORED / "expected.json").read_text())
FRAME = pd.DataFrame({name: EXPECTED[name] for name in ("seed", "label")})
IMAGES = np.array(EXPECTED["images"], dtype=np.float32)


def test_it_gives_the_images_of_then() -> None:
    student = load_student(STORED / "data" / "student")
    images = student.predict(FRAME, {"nfe": EXPECTED["nfe"]})
    np.testing.assert_allclose(images, IMAGES, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_mlflow_loads_it_without_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    import mlflow

    images = mlflow.pyfunc.load_model(str(STORED)).predict(FRAME, {"nfe": EXPECTED["nfe"]})
    np.testing.assert_allclose(images, IMAGES, rtol=1e-5, atol=1e-6)
