import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from meanflow_tune.checksums import write_checked
from meanflow_tune.config import TrialConfig
from meanflow_tune.core.generation import generate
from meanflow_tune.core.random import make_generator
from meanflow_tune.student_files import export_student
from meanflow_tune.tracking.student_model import load_student
from tests.support.stories import CLASSES, SHAPE, make_student, small_config


def frame(rows: int = 3, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"label": [k % CLASSES for k in range(rows)], **columns})


def test_a_student_comes_back_as_it_went(tmp_path: Path) -> None:
    config = small_config()
    net = TrialConfig.from_dict(config).model.build(SHAPE, CLASSES, make_generator(3, "weights"))
    folder = export_student(tmp_path / "model", config, net.state_dict(), SHAPE, CLASSES)
    student = load_student(folder)
    assert (student.shape, student.classes) == (SHAPE, CLASSES)
    latents = torch.randn(300, *SHAPE, generator=make_generator(0))
    label = torch.arange(300) % CLASSES
    with torch.no_grad():
        expected = generate(net, latents, label, 2)
    torch.testing.assert_close(student.generate(latents, label, 2), expected)
    flat = list(latents.flatten(1).numpy())
    images = student.predict(frame(300, latent=flat), {"nfe": 2})
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_seed_is_one_latent_whatever_stands_beside_it(tmp_path: Path) -> None:
    student = load_student(make_student(tmp_path, classes=None))
    together = student.predict(pd.DataFrame({"seed": [4, 5, 4, 2**40]}))
    alone = student.predict(pd.DataFrame({"seed": [5]}))
    assert together.shape == (4, *SHAPE)
    np.testing.assert_array_equal(together[0], together[2])
    assert np.abs(together[0] - together[1]).max() > 0.1
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-5, atol=1e-6)


def test_labels_and_the_number_of_steps_matter(tmp_path: Path) -> None:
    student = load_student(make_student(tmp_path))
    images = student.predict(frame(3, seed=[1, 1, 1]))
    assert np.abs(images[0] - images[1]).max() > 1e-6
    assert np.abs(images - student.predict(frame(3, seed=[1, 1, 1]), {"nfe": 4})).max() > 1e-6
    assert student.predict(frame(0, seed=[])).shape == (0, *SHAPE)


@pytest.mark.parametrize(
    ("data", "params", "words"),
    [
        (frame(), {}, "`seed` or a column `latent`"),
        (frame(seed=[1, 2, 3], latent=[[0.0] * 16] * 3), {}, "not both"),
        (frame(latent=[[0.0] * 15] * 3), {}, "must have 16 values.*got 15"),
        (pd.DataFrame({"seed": [1]}), {}, "column `label`, 0 to 2"),
        (pd.DataFrame({"seed": [1], "label": [3]}), {}, r"`0 <= label < 3` must hold.*\[3\]"),
        (frame(seed=[1, 2, 3]), {"nfe": 0}, "nfe >= 1"),
    ],
)
def test_faults_of_the_input_are_named(
    tmp_path: Path, data: pd.DataFrame, params: dict[str, int], words: str
) -> None:
    student = load_student(make_student(tmp_path))
    with pytest.raises(ValueError, match=words):
        student.predict(data, params)


def test_a_configuration_that_is_not_valid_is_an_error(tmp_path: Path) -> None:
    folder = make_student(tmp_path)
    description = json.loads((folder / "config.json").read_text())
    description["config"]["model"]["witdh"] = 3
    write_checked(folder / "config.json", json.dumps(description))
    with pytest.raises(ValueError, match="witdh"):
        load_student(folder)


ELSEWHERE = """
import sys
import numpy as np
import pandas as pd
import mlflow

model = mlflow.pyfunc.load_model(sys.argv[1])
seeds = model.predict(pd.DataFrame({"seed": [1, 2], "label": [0, 2]}), params={"nfe": 2})
import meanflow_tune
assert meanflow_tune.__file__.startswith(sys.argv[1]), meanflow_tune.__file__
rows = [np.full(16, 0.25, dtype=np.float32), [0.5] * 16]
latents = model.predict(pd.DataFrame({"latent": rows, "label": [0, 2]}))
np.savez(sys.argv[2], seeds=seeds, latents=latents)
"""


@pytest.mark.slow
def test_it_loads_elsewhere_by_mlflow_without_pickle_and_without_this_checkout(
    tmp_path: Path,
) -> None:
    from meanflow_tune.tracking.models.logged_model import save_student

    folder, saved, out = tmp_path / "student", tmp_path / "saved", tmp_path / "out.npz"
    make_student(folder)
    save_student(folder, saved, None, None)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    script = [sys.executable, "-c", ELSEWHERE, str(saved), str(out)]
    subprocess.run(script, cwd=tmp_path, env=environment, check=True)
    student = load_student(folder)
    got = np.load(out)
    seeds = student.predict(pd.DataFrame({"seed": [1, 2], "label": [0, 2]}), {"nfe": 2})
    rows = [np.full(16, 0.25), np.full(16, 0.5)]
    latents = student.predict(pd.DataFrame({"latent": rows, "label": [0, 2]}))
    np.testing.assert_allclose(got["seeds"], seeds, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got["latents"], latents, rtol=1e-6, atol=1e-6)
    names = {path.name for path in saved.rglob("*")}
    assert not any(name.endswith((".pkl", ".pickle", ".pt", ".pth")) for name in names)
    assert "__pycache__" not in names
    assert len([path for path in saved.rglob("*") if path.is_file()]) < 20


def test_equal_code_is_packed_to_equal_bytes(tmp_path: Path) -> None:
    from meanflow_tune.tracking.models.logged_model import pack_code

    pack_code(tmp_path / "first.zip")
    pack_code(tmp_path / "second.zip")
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
