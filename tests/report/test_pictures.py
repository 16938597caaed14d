from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from meanflow_tune.report.pictures import COMPARED, comparison_grid, mosaic, sample_grid


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


def test_a_mosaic_places_image_k_in_row_major_order() -> None:
    images = np.stack([np.full((1, 2, 3), value) for value in (-1.0, 0.0, 1.0, -2.0, 0.5)])
    picture = mosaic(images)
    assert picture.shape == (2 * 3 - 1, 3 * 4 - 1, 1)
    corners = picture[::3, ::4, 0]
    np.testing.assert_allclose(corners, [[0.0, 0.5, 1.0], [0.0, 0.75, 1.0]])
    np.testing.assert_array_equal(picture[2], 1.0)
    np.testing.assert_array_equal(picture[:, 3], 1.0)


def test_a_mosaic_keeps_channels_and_orientation() -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 5))
    np.testing.assert_allclose(mosaic(image)[3, 1], (image[0, :, 3, 1] + 1) / 2)


def test_each_panel_is_drawn_from_its_own_samples(tmp_path: Path) -> None:
    def share_of_colour(red: bool) -> float:
        channel = torch.full((4, 3, 8, 8), -1.0)
        channel[:, 0 if red else 1] = 1.0
        path = tmp_path / "grid.png"
        black = torch.full((4, 3, 8, 8), -1.0)
        comparison_grid({"one": {1: black, 2: channel}, "two": {1: black, 2: black}}, path)
        image = pixels(path)
        right = image[: len(image) // 2, image.shape[1] // 2 :]
        strong = (right[..., 0 if red else 1] > 250) & (right[..., 2] < 5)
        return float(strong.mean())

    assert share_of_colour(red=True) > 0.5
    assert share_of_colour(red=False) > 0.5


@pytest.mark.parametrize("shape", [(COMPARED + 50, 1, 8, 8), (5, 3, 8, 8), (500, 2), (1, 2)])
def test_images_and_points_of_any_number_can_be_drawn(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    samples = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    grid, single = tmp_path / "grid.png", tmp_path / "single.png"
    rows = {"teacher": {1: samples, 4: samples}, "best\ntrial 3": {1: samples}}
    comparison_grid(rows, grid, {"teacher": {1: "gap 0.1"}}, title="toy")
    sample_grid(samples.numpy(), single, title="trial 3")
    for path in (grid, single):
        assert pixels(path).std() > 5
    assert {file.name for file in tmp_path.iterdir()} == {"grid.png", "single.png"}


def test_labels_title_and_names_are_printed(tmp_path: Path) -> None:
    samples = np.zeros((4, 1, 8, 8))
    counts = []
    for labels, title in ((None, ""), ({"one": {1: "gap 0.1234"}}, ""), (None, "a search")):
        comparison_grid({"one": {1: samples}}, tmp_path / "grid.png", labels, title)
        image = pixels(tmp_path / "grid.png")
        counts.append(int(((image < 125).all(axis=-1)).sum()) / image.shape[0])
    assert len(set(counts)) == 3


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({}, "same shape"),
        ({"a": {}}, "same shape"),
        ({"a": {1: np.zeros((3, 2))}, "b": {1: np.zeros((4, 2))}}, "same shape"),
        ({"a": {1: np.zeros((3, 5))}}, "must be"),
        ({"a": {1: np.zeros((3, 4, 8, 8))}}, "must be"),
        ({"a": {1: np.zeros((0, 2))}}, "N > 0"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(tmp_path: Path, rows: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        comparison_grid(rows, tmp_path / "grid.png")
    assert not any(tmp_path.iterdir())


def test_one_stray_point_does_not_set_the_scale(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(4000, 2))
    sample_grid(points, tmp_path / "clean.png")
    points[0] = 1e6
    sample_grid(points, tmp_path / "stray.png")
    clean, stray = pixels(tmp_path / "clean.png"), pixels(tmp_path / "stray.png")
    ink = [float((image < 200).any(axis=-1).mean()) for image in (clean, stray)]
    assert ink[1] == pytest.approx(ink[0], rel=0.05)


def test_a_panel_shows_as_many_images_as_it_is_told(tmp_path: Path) -> None:
    """The last of 64 is white, and all others are black."""
    images = np.full((64, 1, 8, 8), -1.0)
    images[-1] = 1.0
    share = {}
    for most in (COMPARED, 64):
        comparison_grid({"": {1: images}}, tmp_path / "a.png", most=most)
        picture = pixels(tmp_path / "a.png")
        dark = np.argwhere(picture.max(axis=2) < 5)
        (top, left), (bottom, right) = dark.min(axis=0), dark.max(axis=0)
        corner = picture[top + (bottom - top) * 15 // 16, left + (right - left) * 15 // 16]
        share[most] = int(corner.min())
    assert share[COMPARED] < 5
    assert share[64] > 250


def test_an_svg_is_drawn_where_the_name_ends_so(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(20, 2))
    comparison_grid({"one": {1: points, 2: points}}, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.startswith("<?xml")
    assert "</svg>" in text
    assert "<dc:date>" not in text
