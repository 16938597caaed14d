"""Samples as PNG data: a mosaic of images, or points of a plane coloured by their density."""

import base64
import struct
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from meanflow_tune.report.page.markup import Html
from meanflow_tune.report.pictures import mosaic

Floats = npt.NDArray[np.float64]

PIXELS = 200  # side of a picture of points

LEVELS = 32  # of a density; a palette that small is a third of the file
# Few points to many: both ends stand out from a white and from a black page.
_SPARSE, _DENSE = np.array([58.0, 134.0, 200.0]), np.array([230.0, 126.0, 20.0])


def image_png(samples: Floats) -> bytes:
    """[N, 1 or 3, H, W], clipped to [-1, 1], side by side, a pixel of the picture per pixel of a sample;
    between them one sees the page."""
    picture = mosaic(np.nan_to_num(samples, nan=-1.0, posinf=1.0, neginf=-1.0))
    cover = 1.0 - mosaic(np.full_like(samples[:, :1], -1.0))
    picture = np.concatenate([picture, cover], axis=-1)
    return _encode((255.0 * picture).round().astype(np.uint8))


def points_png(points: Floats, limit: float) -> bytes:
    """[N, 2] within ±limit: a dot per point, from blue where they are sparse to orange."""
    pixels = PIXELS
    inside = points[np.isfinite(points).all(axis=1)]
    places = (inside / limit + 1.0) / 2.0 * (pixels - 1)
    places = places[((places >= 0) & (places <= pixels - 1)).all(axis=1)]
    if len(places) == 0:
        return _levels(np.zeros((pixels, pixels)), np.zeros((pixels, pixels)))
    columns = places[:, 0].round().astype(int)
    rows = (pixels - 1 - places[:, 1]).round().astype(int)
    counts = np.zeros((pixels, pixels))
    np.add.at(counts, (rows, columns), 1.0)
    near = _blur(counts, 3)
    share = near / max(float(np.quantile(near[rows, columns], 0.98)), 1e-12)
    dot = _blur(counts, 1 if len(inside) > 400 else 2) > 0
    faint = (counts == 0) & (len(inside) > 400)
    return _levels(share, np.where(dot, np.where(faint, 0.3, 1.0), 0.0))


def density_png(grid: Floats) -> bytes:
    """[H, W] >= 0, its first row on top: empty where it is 0."""
    share = np.sqrt(grid / max(float(np.quantile(grid, 0.995)), 1e-12))
    return _levels(share, (grid > 0).astype(np.float64))


def limit_of(panels: Iterable[Floats]) -> float:
    """Half the side of a square around 99.8 % of the coordinates."""
    known = [np.abs(points[np.isfinite(points)]) for points in panels]
    values = np.concatenate(known) if known else np.ones(1)
    return (1.08 * float(np.quantile(values, 0.998)) if values.size else 0.0) or 1.0


def data_uri(png: bytes) -> Html:
    return Html("data:image/png;base64," + base64.b64encode(png).decode())


def _blur(counts: Floats, radius: int) -> Floats:
    """The sum over squares of side 2 radius + 1."""
    found = counts
    for axis in (0, 1):
        padded = np.pad(found, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)])
        size = found.shape[axis]
        slices = [np.take(padded, range(k, k + size), axis=axis) for k in range(2 * radius + 1)]
        found = np.sum(slices, axis=0)
    return found


def _levels(share: Floats, cover: Floats) -> bytes:
    """A picture of LEVELS colours; share: 0 blue to 1 orange; cover: 0 for nothing, to 1."""
    steps = np.linspace(0.0, 1.0, LEVELS)
    colours = _SPARSE + steps[:, None] * (_DENSE - _SPARSE)
    strong = 255.0 * (0.55 + 0.45 * steps)
    palette = np.zeros((2 * LEVELS + 1, 4))
    palette[1:] = np.concatenate(
        [np.column_stack([colours, alpha]) for alpha in (strong, 0.35 * strong)]
    )
    level = np.clip(share * (LEVELS - 1), 0, LEVELS - 1).round().astype(int)
    index = np.where(cover > 0, 1 + level + LEVELS * (cover < 0.5), 0)
    return _encode(index[..., None].astype(np.uint8), palette.round().astype(np.uint8))


def _encode(picture: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8] | None = None) -> bytes:
    """A PNG (ISO/IEC 15948) of [H, W, 2 or 4], the last of which is opacity, or of places [H, W, 1] in a
    palette [K, 4].

    Written here because an encoder that is made for any picture costs a search seconds of imports.
    """
    height, width, channels = picture.shape
    kind = 3 if palette is not None else {2: 4, 4: 6}[channels]
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), picture.reshape(height, width * channels)], axis=1
    )
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    if palette is not None:
        chunks += [(b"PLTE", palette[:, :3].tobytes()), (b"tRNS", palette[:, 3].tobytes())]
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
