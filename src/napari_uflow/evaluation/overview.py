"""Overview figure: image, heatmap, detected regions and truth, one row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.measure import find_contours, label, regionprops

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.evaluation.figures import DPI, FOUND_HEADING, QUIET_COLOUR, TEXT_COLOUR
from napari_uflow.wording import printable

__all__ = ["OverviewRow", "overview"]

_FOUND_COLOUR = "#ff8c1a"
_TRUTH_COLOUR = "#19d3c5"
_TRUTH_HEADING = "#0b8f86"

# Layout in inches; at 120 dots per inch four columns make 1,450 pixels.
_COLUMN = 2.75
_TALLEST = 2.75
_GAP = 0.14
_MARGIN = 0.3
_HEADING = 0.34
_CAPTION = 0.3
_ROW_GAP = 0.16
_TITLE = 0.42
_BAR_HEIGHT = 0.11
_BAR_SPACE = 0.62
_LONGEST_NAME = 48

_MAX_PIXELS = 1200
"""Longest side, in pixels, of an image passed to Matplotlib; a panel has about 330 pixels on screen."""


@dataclass(frozen=True, slots=True, eq=False)
class OverviewRow:
    """Row of :func:`overview`: one image.

    Attributes
    ----------
    name : str
        Heading of the row; the beginning of a long one is cut off.
    image : (M, N) or (M, N, 3) array
        Image of any numeric type; shown between its 0.5 % and 99.5 % quantiles.
    score : (M, N) array, float
        Scores, larger is more anomalous.
    labels : (M, N) array, int or bool
        Detected regions, 0 is background.
    truth : (M, N) array, bool, or None
        True in anomalous pixels; None if unknown.
    caption : str
        Text after the name, for example ``"log10 NFA -12.3, 2 regions"``.

    Raises
    ------
    ImageError
        If the shapes differ.
    """

    name: str
    image: NDArray[Any]
    score: NDArray[Any]
    labels: NDArray[Any]
    truth: NDArray[np.bool_] | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        shape = np.shape(self.image)
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3) or 0 in shape:
            raise ImageError(f"image of {self.name!r} must be (M, N) or (M, N, 3), got {shape}")
        for name in ("score", "labels", "truth"):
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape[:2]:
                raise ImageError(f"{name} of {self.name!r} must be {shape[:2]} like its image, got {np.shape(value)}")


def overview(
    rows: Sequence[OverviewRow],
    *,
    score_limits: tuple[float, float],
    title: str | None = None,
    score_label: str = "anomaly score",
) -> Figure:
    """Draw one row per image: image, heatmap, detected regions and, if any row has it, the truth.

    Parameters
    ----------
    rows : sequence of OverviewRow
        Images, at least one; they may differ in size.
    score_limits : (float, float)
        Scores shown as black and as the brightest colour in every row; values outside are clipped.
    title : str, optional
        Title above the columns.
    score_label : str
        Label of the colour bar.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with an Agg canvas, for :func:`~napari_uflow.evaluation.figures.save_figure` or a Qt canvas.

    Raises
    ------
    ConfigError
        If there is no row or the limits do not ascend.
    """
    low, high = score_limits
    if not rows:
        raise ConfigError("an overview needs at least one row, got none")
    if not (np.isfinite([low, high]).all() and low < high):
        raise ConfigError(f"score_limits must be finite and ascending, got {score_limits}")
    norm = Normalize(low, high, clip=True)
    headings = [("Image", TEXT_COLOUR), ("Score", TEXT_COLOUR), ("Found", FOUND_HEADING)]
    if any(row.truth is not None for row in rows):
        headings.append(("Truth", _TRUTH_HEADING))
    sizes = [_panel_size(row.image.shape) for row in rows]

    width = 2 * _MARGIN + len(headings) * _COLUMN + (len(headings) - 1) * _GAP
    top = _MARGIN + (_TITLE if title else 0.0) + _HEADING
    height = top + sum(_CAPTION + h + _ROW_GAP for _, h in sizes) + _BAR_SPACE + 0.5 * _MARGIN
    page = _Page(width, height)
    if title:
        page.text(_MARGIN, _MARGIN, title, size=14, weight="bold")
    columns = {heading: _MARGIN + k * (_COLUMN + _GAP) for k, (heading, _) in enumerate(headings)}
    for heading, colour in headings:
        page.text(columns[heading], top - _HEADING, heading, size=11, weight="bold", colour=colour)
    for row, (_, panel_height) in zip(rows, sizes, strict=True):
        page.caption(_MARGIN, top, row)
        top += _CAPTION
        _draw_row(page, top, row, columns, norm)
        top += panel_height + _ROW_GAP
    _draw_colour_bar(page.axes(columns["Score"], top + 0.1, _COLUMN, _BAR_HEIGHT), norm, score_label)
    return page.figure


def _draw_row(page: _Page, top: float, row: OverviewRow, columns: Mapping[str, float], norm: Normalize) -> None:
    """Draw the panels of one image; `columns` are the left ends by heading, in inches."""
    width, height = _panel_size(row.image.shape)
    image = _displayable(row.image)
    for heading, left in columns.items():
        axes = page.axes(left, top, width, height)
        if heading == "Score":
            score = np.clip(np.asarray(row.score, dtype=np.float32), norm.vmin, norm.vmax)
            _show(axes, _shrink(score, "max"), row, norm=norm, cmap="magma")
        elif heading == "Truth" and row.truth is None:
            page.text(left, top, "not known", size=9, colour=QUIET_COLOUR)
        else:
            _show(axes, image, row, vmin=0.0, vmax=1.0, cmap="gray")
        if heading == "Found":
            _outline(axes, row.labels, _FOUND_COLOUR)
        elif heading == "Truth" and row.truth is not None:
            _outline(axes, np.asarray(row.truth) != 0, _TRUTH_COLOUR)


def _draw_colour_bar(axes: Axes, norm: Normalize, label: str) -> None:
    axes.set_axis_on()
    colours = axes.figure.colorbar(ScalarMappable(norm, "magma"), cax=axes, orientation="horizontal")
    colours.outline.set_visible(False)
    axes.tick_params(labelsize=8, length=2, colors=QUIET_COLOUR)
    axes.set_xlabel(label, fontsize=9, color=TEXT_COLOUR)


class _Page:
    """White figure measured in inches from its upper left corner.

    Parameters
    ----------
    width, height : float
        Size in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return empty axes whose upper left corner is at (left, top)."""
        bottom = self.height - top - height
        axes = self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height), facecolor="none"
        )
        axes.set_axis_off()
        return axes

    def text(
        self,
        left: float,
        top: float,
        text: str,
        *,
        size: float,
        weight: Literal["normal", "bold"] = "normal",
        colour: str = TEXT_COLOUR,
    ) -> None:
        """Print text, without mathematical markup, with its upper left corner at (left, top)."""
        self.figure.text(
            left / self.width,
            1.0 - top / self.height,
            printable(text, keep="\n"),
            fontsize=size,
            fontweight=weight,
            color=colour,
            va="top",
            parse_math=False,
        )

    def caption(self, left: float, top: float, row: OverviewRow) -> None:
        """Print the name of a row in bold and its caption after it."""
        text = printable(row.name)
        name = self.figure.text(
            left / self.width,
            1.0 - (top + 0.06) / self.height,
            text if len(text) <= _LONGEST_NAME else "…" + text[1 - _LONGEST_NAME :],
            fontsize=9.5,
            fontweight="bold",
            color=TEXT_COLOUR,
            va="top",
            parse_math=False,
        )
        end = name.get_window_extent().x1 / DPI if row.name else left - 0.12
        self.text(end + 0.12, top + 0.06, row.caption, size=9.5, colour=QUIET_COLOUR)


def _panel_size(shape: tuple[int, ...]) -> tuple[float, float]:
    """Return width and height in inches of the panel of an image."""
    rows, columns = shape[:2]
    scale = min(_COLUMN / columns, _TALLEST / rows)
    return columns * scale, rows * scale


def _displayable(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return the image in [0, 1] between its 0.5 % and 99.5 % quantiles, small enough to draw."""
    values = _shrink(np.asarray(image, dtype=np.float32), "mean")
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    scaled: NDArray[np.float32] = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    return np.nan_to_num(scaled)


def _shrink(values: NDArray[np.float32], how: Literal["mean", "max"]) -> NDArray[np.float32]:
    """Reduce an image that is too large to draw block by block; "max" keeps a single high pixel visible."""
    factor = -(-max(values.shape[:2]) // _MAX_PIXELS)
    if factor == 1:
        return values
    edges = [(0, -size % factor) for size in values.shape[:2]] + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, edges, mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, *values.shape[2:])
    reduced: NDArray[np.float32] = blocks.max(axis=(1, 3)) if how == "max" else blocks.mean(axis=(1, 3))
    return reduced


def _show(axes: Axes, image: NDArray[np.float32], row: OverviewRow, **style: Any) -> None:
    """Draw an image, reduced or not, in the pixel coordinates of its row."""
    height, width = row.image.shape[:2]
    factor = -(-max(height, width) // _MAX_PIXELS)
    extent = (-0.5, factor * image.shape[1] - 0.5, factor * image.shape[0] - 0.5, -0.5)
    axes.imshow(image, extent=extent, aspect="auto", **style)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _outline(axes: Axes, labels: NDArray[Any], colour: str) -> None:
    """Draw closed outlines around the regions, at full resolution, with a dark rim for contrast on bright images."""
    regions = np.asarray(labels)
    if regions.dtype == np.bool_:
        regions = label(regions, connectivity=2)
    lines = []
    for region in regionprops(regions):
        corner = np.array(region.bbox[:2]) - 1
        lines += [(contour + corner)[:, ::-1] for contour in find_contours(np.pad(region.image, 1), 0.5)]
    # Without clipping the outline of a region at the border has its full width.
    axes.add_collection(LineCollection(lines, colors="black", linewidths=2.6, alpha=0.55, clip_on=False))
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=1.4, clip_on=False))
