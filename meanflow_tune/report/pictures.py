"""Pictures of samples: a grid from one model, and the comparison of models at each NFE."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from meanflow_tune.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Samples = Tensor | npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

DPI = 200
# Images in a grid and in a panel of a comparison; more would be too small to see.
SHOWN = 64
COMPARED = 36
INK = "#1a1a1a"
FAINT = "#6b6b6b"
# One colour a row of 2-D data (Okabe and Ito: told apart with any colour vision).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def comparison_grid(
    rows: Mapping[str, Mapping[int, Samples]],
    path: Path,
    labels: Mapping[str, Mapping[int, str]] | None = None,
    title: str = "",
    most: int = COMPARED,
) -> None:
    """One panel a row and NFE: rows[name][nfe] are samples [N, C, H, W], clipped to
    [-1, 1], or [N, 2].

    Sample i of every panel must come from the same latent (and label), so that the eye can compare.
    labels[name][nfe] stands under a panel, say its metric; most: images in a panel. The file is a PNG,
    or an SVG where `path` ends so. Raises ValueError for no samples at all,
    shapes that cannot be drawn, or panels with different numbers of samples.
    """
    panels = {name: {nfe: _to_array(x) for nfe, x in row.items()} for name, row in rows.items()}
    shapes = {x.shape for row in panels.values() for x in row.values()}
    if len(shapes) != 1:
        raise ValueError(f"All panels must have the same shape, but got {sorted(shapes)}.")
    nfes = sorted({nfe for row in panels.values() for nfe in row})
    points = len(next(iter(shapes))) == 2
    row_height = 2.3 * _aspect(next(iter(shapes)), most) + 0.25
    width, height = 2.3 * len(nfes) + 0.9, row_height * len(panels) + (0.75 if title else 0.4)
    figure = _figure(width, height)
    axes = figure.subplots(len(panels), len(nfes), squeeze=False)
    limit = _limit(panels) if points else 0.0
    for index, (name, row) in enumerate(panels.items()):
        for column, nfe in enumerate(nfes):
            axis = axes[index, column]
            _frame(axis)
            if nfe in row and points:
                _scatter(axis, row[nfe], limit, COLOURS[index % len(COLOURS)])
            elif nfe in row:
                _mosaic(axis, row[nfe][:most])
            else:
                axis.set_visible(False)
            if index == 0:
                axis.set_title(
                    f"{nfe} step" if nfe == 1 else f"{nfe} steps", fontsize=10, color=INK
                )
            if column == 0:
                axis.set_ylabel(name, fontsize=10, color=INK, labelpad=8)
            axis.set_xlabel((labels or {}).get(name, {}).get(nfe, ""), fontsize=8, color=FAINT)
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    _save(figure, path)


def sample_grid(images: Samples, path: Path, title: str = "") -> None:
    """Samples [N, C, H, W], clipped to [-1, 1], as a square of images, or [N, 2] as points."""
    samples = _to_array(images)
    figure = _figure(4.0, 4.3 if title else 4.0)
    axis = figure.subplots()
    _frame(axis)
    if samples.ndim == 2:
        _scatter(axis, samples, _limit({"": {1: samples}}), COLOURS[0])
    else:
        _mosaic(axis, samples[:SHOWN])
    if title:
        axis.set_title(title, fontsize=10, color=INK)
    _save(figure, path)


def is_whole(path: Path) -> bool:
    """Whether a PNG is there and undamaged; it keeps a checksum of each of its parts."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.verify()
    except Exception:  # damaged bytes raise what zlib, struct and Pillow happen to meet
        return False
    return True


def _aspect(shape: tuple[int, ...], most: int) -> float:
    """Height over width of a panel: a mosaic of `most` samples at most, or a square of points."""
    if len(shape) == 2:
        return 1.0
    count = min(shape[0], most)
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns) * shape[2] / (columns * shape[3])


def mosaic(images: Floats, gap: int = 1) -> Floats:
    """[N, C, H, W], clipped to [-1, 1], to one picture [rows, columns, C] in [0, 1], `gap` pixels apart."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    lines = math.ceil(count / columns)
    shape = (lines * (height + gap) - gap, columns * (width + gap) - gap, channels)
    picture = np.ones(shape)
    for index, image in enumerate(np.clip((images + 1) / 2, 0.0, 1.0)):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        picture[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return picture


def _to_array(samples: Samples) -> Floats:
    values = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else samples
    array = np.asarray(values, dtype=np.float64)
    image = array.ndim == 4 and array.shape[1] in (1, 3)
    if not (image or (array.ndim == 2 and array.shape[1] == 2)) or len(array) == 0:
        raise ValueError(
            f"Samples must be [N, 1 or 3, H, W] or [N, 2] with N > 0, but are {array.shape}."
        )
    return array


def _limit(panels: Mapping[str, Mapping[int, Floats]]) -> float:
    """Half the side of a square around 99.5 % of all coordinates: one stray point sets no scale."""
    values = np.concatenate([np.abs(x).ravel() for row in panels.values() for x in row.values()])
    finite = values[np.isfinite(values)]
    return 1.1 * float(np.quantile(finite, 0.995)) if finite.size else 1.0


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _frame(axis: "Axes") -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)


def _mosaic(axis: "Axes", images: Floats) -> None:
    picture = mosaic(images)
    if picture.shape[2] == 1:
        axis.imshow(picture[:, :, 0], cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    else:
        axis.imshow(picture, interpolation="nearest")


def _scatter(axis: "Axes", points: Floats, limit: float, colour: str) -> None:
    size = float(np.clip(2000.0 / len(points), 0.8, 8.0))
    axis.scatter(points[:, 0], points[:, 1], s=size, c=colour, alpha=0.5, linewidths=0)
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    for side in axis.spines.values():
        side.set(visible=True, color="#d0d0d0", linewidth=0.6)


def _save(figure: "Figure", path: Path) -> None:
    kind = "svg" if path.suffix == ".svg" else "png"
    # Without the time in it, one picture is one file.
    metadata = {"Date": None} if kind == "svg" else {}
    write_atomic(
        path, lambda beside: figure.savefig(beside, format=kind, dpi=DPI, metadata=metadata)
    )
