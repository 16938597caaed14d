"""Pictures of samples are PNG files that others read, and colour follows the density."""

import io

import numpy as np
import pytest
from PIL import Image

from meanflow_tune.report.page.samples.sample_images import (
    PIXELS,
    data_uri,
    density_png,
    image_png,
    limit_of,
    points_png,
)


def read(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    image.load()
    return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_has_the_pixels_of_the_samples(channels: int) -> None:
    samples = np.linspace(-1, 1, 4 * channels * 9).reshape(4, channels, 3, 3)
    picture = read(image_png(samples))
    assert picture.shape == (7, 7, 4)
    expected = np.round((samples[0, 0, 0, 0] + 1) / 2 * 255)
    assert picture[0, 0, 0] == expected
    assert (picture[3, :, 3] == 0).all()  # the gap
    assert (picture[:3, :3, 3] == 255).all()


def test_broken_numbers_are_drawn_black_and_white() -> None:
    samples = np.array([[np.nan, np.inf], [-np.inf, 9.0]]).reshape(1, 1, 2, 2)
    assert read(image_png(samples))[..., 0].tolist() == [[0, 255], [0, 255]]


def test_points_lie_where_they_are_and_dense_ones_are_orange() -> None:
    generator = np.random.default_rng(0)
    dense = generator.normal(0.5, 0.02, (3000, 2))
    points = np.concatenate([dense, [[-0.5, -0.5]]])
    picture = read(points_png(points, 1.0))
    assert picture.shape == (PIXELS, PIXELS, 4)
    upper = picture[round(PIXELS * 0.25), round(PIXELS * 0.75)]
    lower = picture[round((PIXELS - 1) * 0.75), round((PIXELS - 1) * 0.25)]
    assert upper[0] > 200 > upper[2]  # orange, up and to the right
    assert lower[2] > 150 > lower[0]  # blue
    assert picture[5, 5, 3] == 0


@pytest.mark.parametrize(
    "points", [np.full((5, 2), np.nan), np.full((5, 2), 1e9), np.zeros((5, 2))]
)
def test_odd_points_give_a_picture(points: np.ndarray) -> None:
    assert read(points_png(points, limit_of([points]))).shape == (PIXELS, PIXELS, 4)


def test_a_density_is_empty_where_nothing_is_drawn() -> None:
    picture = read(density_png(np.array([[0.0, 1.0], [4.0, 0.0]])))
    assert picture[0, 0, 3] == 0
    assert picture[1, 0, 0] > picture[0, 1, 0]


def test_pictures_stand_in_the_page() -> None:
    assert data_uri(image_png(np.zeros((1, 1, 2, 2)))).startswith("data:image/png;base64,iVBOR")
