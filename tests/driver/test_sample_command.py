"""The command `sample`, by its script and by the installed command, on a tiny trained student."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import meanflow_tune
from meanflow_tune.driver import console, sample_command
from meanflow_tune.driver.sample_command import main
from meanflow_tune.driver.train_command import main as train
from meanflow_tune.tracking.student_model import Student
from tests.support.stories import make_student
from tests.support.tiny_run import tiny_config


@pytest.fixture(autouse=True, scope="module")
def _handlers() -> Iterator[None]:
    """The installed command sets its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training by the command."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "config.json").write_text(json.dumps(tiny_config().to_dict()))
    output = folder / "out"
    places = [f"--config={folder / 'config.json'}", f"--cache={folder / 'teachers'}"]
    assert train([*places, f"--output={output}", "--device=cpu"]) == 0
    return output


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained student of images with three classes."""
    return make_student(tmp_path_factory.mktemp("digits") / "model")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".npz"])
def test_from_training_to_samples(
    trained: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / f"samples{suffix}"
    assert main([str(trained), "--nfe=1,4", "--n=50", "--seed=3", f"--out={out}"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"50 samples at NFE 1, 4, seeds 3 to 52: {out}\n"
    assert printed.err == ""
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    if suffix == ".png":
        with Image.open(out) as image:
            assert image.width > 1.5 * image.height, "two columns"
    elif suffix == ".svg":
        text = out.read_text()
        assert "<svg" in text
        assert main([str(trained), "--nfe=1,4", "--n=50", "--seed=3", f"--out={out}"]) == 0
        assert len(out.read_text()) == len(text)
    else:
        student = meanflow_tune.load_student(trained)
        with np.load(out) as arrays:
            assert set(arrays.files) == {"samples@1", "samples@4", "latents", "seeds"}
            assert arrays["seeds"].tolist() == list(range(3, 53))
            np.testing.assert_array_equal(arrays["samples@4"], student.sample(4, 50, seed=3))


def test_the_installed_command_is_the_script(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(digits), "--n=4", "--labels=2,0", "--device=cpu"]
    assert main([*words, f"--out={tmp_path / 'a.npz'}"]) == 0
    with pytest.raises(SystemExit) as ended:
        console.main(["sample", *words, f"--out={tmp_path / 'b.npz'}"])
    assert ended.value.code == 0
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert a["labels"].tolist() == [2, 0, 2, 0]
        assert a["latents"].shape == (4, 1, 4, 4)
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        console.main(["sample", "nowhere"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("meanflow-tune sample: nowhere: no such file")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels=3"], "--labels 3: this student has the classes 0 to 2"),
        (["--labels=0,1,2", "--n=2"], "--labels 0,1,2 are 3, more than the n 2 samples"),
        (["--guidance=2"], "--guidance 2: this student has no null class"),
        (["--out=grid.gif"], "--out grid.gif: must end in .png, .svg or .npz."),
        (["--device=abacus"], "--device abacus: cannot be used (torch knows no such device)"),
        ([f"--seed={2**63}"], f"--seed {2**63} must be from 0"),
    ],
)
def test_mistakes_take_one_line(
    digits: Path,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(digits), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sample.py: {message}")
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.parametrize(
    "words",
    [["--nfe=0"], ["--nfe=1,,2"], ["--n=x"], ["--labels=-1"], ["--guidance=much"], ["--nf=1"]],
)
def test_the_parser_names_the_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["source", *words])
    assert ended.value.code == 2
    assert words[0].partition("=")[0] in capsys.readouterr().err


def test_an_output_that_cannot_be_written(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(digits), f"--out={tmp_path / 'file' / 'a.png'}"]) == 5
    assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "a.png").mkdir()
    assert main([str(digits), f"--out={tmp_path / 'a.png'}"]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err


def test_what_is_not_shown_or_not_finite_is_said(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sample = Student.sample

    def broken(self: Student, *given: object) -> np.ndarray:
        samples = sample(self, *given)  # type: ignore[arg-type]
        samples[7] = np.nan
        return samples

    monkeypatch.setattr(Student, "sample", broken)
    out = tmp_path / "a.png"
    assert main([str(digits), "--n=65", f"--out={out}"]) == 0
    notes = capsys.readouterr().err.splitlines()
    assert notes == [
        "sample.py: note: 3 of 195 samples are not finite: this student has diverged",
        "sample.py: note: a.png shows the first 64 of 65 samples; .npz holds all",
    ]


def test_an_interruption_leaves_the_old_file(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.png").write_text("old")
    monkeypatch.setattr(Student, "sample", interrupted)
    assert main([str(digits), f"--out={tmp_path / 'a.png'}"]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.png", "old")]


def test_an_interruption_that_an_import_swallowed_counts(digits: Path, tmp_path: Path) -> None:
    interruption = sample_command.Interruption()
    with pytest.raises(KeyboardInterrupt):
        interruption.handle(2, None)
    words = [str(digits), f"--out={tmp_path / 'a.png'}"]
    assert main(words, "sample.py", interruption) == 130
    assert not list(tmp_path.iterdir())


def test_samples_that_are_no_picture_need_arrays(tmp_path: Path) -> None:
    for shape in ((1, 8, 8), (3, 4, 4), (2,)):
        sample_command.check_drawable(shape, tmp_path / "a.png")
    sample_command.check_drawable((5,), tmp_path / "a.npz")
    with pytest.raises(sample_command.UserError, match=r"\(5,\) cannot be drawn; take a.npz"):
        sample_command.check_drawable((5,), tmp_path / "a.svg")


def test_progress_is_shown_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(sample_command.time, "monotonic", lambda: now[0])
    progress = sample_command.Progress(2000, sample_command.Interruption())
    for second in range(25):
        now[0] = float(second)
        progress.at(40 * second)
    progress.end()
    assert capsys.readouterr().err == "sampled 400 / 2,000\nsampled 800 / 2,000\n"
