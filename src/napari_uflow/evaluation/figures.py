"""Images for people: what a model found beside the truth, and what its number of false alarms is worth.

Drawn with Matplotlib's object-oriented interface only: no pyplot, no window, no global state, so it may be called from
any thread and beside any Qt application. Every colour is set here, whatever the user's style sheet says.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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

from napari_uflow.errors import ConfigError, ImageError, UFlowError
from napari_uflow.evaluation.trust import EPSILONS, TrustReport
from napari_uflow.nfa.calibrated import QQ_LEVELS
from napari_uflow.wording import counted

__all__ = ["OverviewRow", "figure_pixels", "overview", "save_figure", "trust_figure"]

_FOUND_COLOUR = "#ff8c1a"
_FOUND_HEADING = "#d96b00"
_TRUTH_COLOUR = "#19d3c5"
_TRUTH_HEADING = "#0b8f86"
_TEXT_COLOUR = "#1f2328"
_QUIET_COLOUR = "#6a737d"

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
_DPI = 120
_LONGEST_NAME = 48

_MAX_PIXELS = 1200
"""Longest side of an image as it is handed to Matplotlib; a panel has about 330 pixels on screen."""


@dataclass(frozen=True, slots=True, eq=False)
class OverviewRow:
    """One image of :func:`overview`.

    Attributes
    ----------
    name : str
        Printed in bold above the row, without its beginning where it is long.
    image : ndarray, (M, N) or (M, N, 3)
        The image in any numeric type; shown between its 0.5 % and 99.5 % quantiles.
    score : float ndarray, (M, N)
        Larger is more anomalous.
    labels : int or bool ndarray, (M, N)
        The automatic segmentation, 0 is background.
    truth : bool ndarray, (M, N), or None
        True on anomalous pixels; None where nobody knows.
    caption : str
        Printed after the name, for example ``"log10 NFA -12.3, 2 regions"``.

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
    """Draw one row per image: image, heatmap, what was found and, if any row has it, the truth.

    Parameters
    ----------
    rows : sequence of OverviewRow
        At least one; images may differ in size.
    score_limits : tuple of float
        Scores shown as black and as the brightest colour, the same in every row; values outside are clipped.
    title : str, optional
        Printed above the columns.
    score_label : str
        What the colour bar shows.

    Returns
    -------
    matplotlib.figure.Figure
        With an Agg canvas, ready for :func:`save_figure` or for a Qt canvas.

    Raises
    ------
    ConfigError
        If there is no row or the limits do not ascend.
    """
    low, high = score_limits
    if not rows:
        raise ConfigError("an overview needs at least one row, got none")
    if not (np.isfinite([low, high]).all() and low < high):
        raise ConfigError(f"score_limits must be finite and ascend, got {score_limits}")
    norm = Normalize(low, high, clip=True)
    headings = [("Image", _TEXT_COLOUR), ("Score", _TEXT_COLOUR), ("Found", _FOUND_HEADING)]
    if any(row.truth is not None for row in rows):
        headings.append(("Truth", _TRUTH_HEADING))
    sizes = [_panel_size(row.image.shape) for row in rows]

    width = 2 * _MARGIN + len(headings) * _COLUMN + (len(headings) - 1) * _GAP
    top = _MARGIN + (_TITLE if title else 0.0) + _HEADING
    height = top + sum(_CAPTION + h + _ROW_GAP for _, h in sizes) + _BAR_SPACE + 0.5 * _MARGIN
    page = _Page(width, height)
    if title:
        page.text(_MARGIN, _MARGIN, title, size=14, weight="bold")
    lefts = [_MARGIN + k * (_COLUMN + _GAP) for k in range(len(headings))]
    for left, (heading, colour) in zip(lefts, headings, strict=True):
        page.text(left, top - _HEADING, heading, size=11, weight="bold", colour=colour)

    for row, (panel_width, panel_height) in zip(rows, sizes, strict=True):
        page.caption(_MARGIN, top, row)
        top += _CAPTION
        image = _displayable(row.image)
        for left, (heading, _) in zip(lefts, headings, strict=True):
            axes = page.axes(left, top, panel_width, panel_height)
            if heading == "Score":
                score = np.clip(np.asarray(row.score, dtype=np.float32), low, high)
                _show(axes, _shrink(score, "max"), row, norm=norm, cmap="magma")
            elif heading == "Truth" and row.truth is None:
                page.text(left, top, "not known", size=9, colour=_QUIET_COLOUR)
            else:
                _show(axes, image, row, vmin=0.0, vmax=1.0, cmap="gray")
            if heading == "Found":
                _outline(axes, row.labels, _FOUND_COLOUR)
            elif heading == "Truth" and row.truth is not None:
                _outline(axes, np.asarray(row.truth) != 0, _TRUTH_COLOUR)
        top += panel_height + _ROW_GAP

    bar = page.axes(lefts[1], top + 0.1, _COLUMN, _BAR_HEIGHT)
    bar.set_axis_on()
    colours = page.figure.colorbar(ScalarMappable(norm, "magma"), cax=bar, orientation="horizontal")
    colours.outline.set_visible(False)
    bar.tick_params(labelsize=8, length=2, colors=_QUIET_COLOUR)
    bar.set_xlabel(score_label, fontsize=9, color=_TEXT_COLOUR)
    return page.figure


def save_figure(fig: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file that appears complete or not at all.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        Written at its own resolution.
    path : path-like
        The suffix gives the format (``.png``, ``.pdf``, ``.svg``). The figure is written beside it and then moved, so
        an existing file is replaced in one step, and kept if anything fails.

    Raises
    ------
    ConfigError
        If the suffix is not one of a format that Matplotlib can write.
    UFlowError
        If there is no such folder.
    """
    target = Path(path)
    kind = target.suffix[1:].lower()
    if kind not in fig.canvas.get_supported_filetypes():
        raise ConfigError(f"cannot write a figure to {target.name!r}: the name must end in .png, .pdf or .svg")
    if not target.parent.is_dir():
        raise UFlowError(f"'{target}' cannot be written: there is no folder '{target.parent}'")
    # A folder of its own beside the target: same file system, ordinary permissions, and one thing to clear away.
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        fig.savefig(draft, format=kind, dpi=fig.dpi, facecolor="white")
        os.replace(draft, target)


def figure_pixels(fig: Figure) -> NDArray[np.uint8]:
    """Draw a figure with an Agg canvas and return its pixels, (M, N, 4) uint8 RGBA."""
    canvas = fig.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba(), np.uint8)  # type: ignore[no-untyped-call]


def trust_figure(report: TrustReport, *, title: str = "", upright: bool = False) -> Figure:
    """Draw a trust report: false alarms expected and observed, and the tails of every map.

    Parameters
    ----------
    report : TrustReport
        What to draw.
    title : str
        Printed above, such as the model's name.
    upright : bool
        One plot above the other and narrow, for a panel; side by side by default.

    Returns
    -------
    matplotlib.figure.Figure
        With an Agg canvas, ready for :func:`save_figure`, :func:`figure_pixels` or for a Qt canvas.
    """
    size = (4.4, 8.4) if upright else (11.0, 5.2)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    alarms, tails = figure.subplots(2, 1) if upright else figure.subplots(1, 2)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", color=_TEXT_COLOUR, parse_math=False)
    _false_alarms(alarms, report)
    _tails(tails, report)
    for axes in (alarms, tails):
        axes.title.set(fontsize=10.5, color=_TEXT_COLOUR)
        axes.tick_params(colors=_TEXT_COLOUR, labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            fontsize=8.5, labelcolor=_TEXT_COLOUR, loc="upper left", facecolor="white", edgecolor="none", framealpha=1
        )
    return figure


def _false_alarms(axes: Axes, report: TrustReport) -> None:
    accepted = np.array(EPSILONS)
    lowest = accepted[0] / 4
    axes.plot([lowest, 20], [lowest, 20], color=_QUIET_COLOUR, linewidth=1, label="as many as accepted")
    if not report.is_guaranteed(accepted[0]):
        limit = 1 / (report.n_specimens + 1) if report.n_specimens >= 2 else 20
        text = f"not guaranteed: {counted(report.n_specimens, 'held-out specimen')}"
        axes.axvspan(lowest, limit, color="#dfe3e7", label=text)
    series = [
        ("held-out specimens, tails alone", report.nominal, "#9aa3ad", "s", "--"),
        ("held-out specimens, as guaranteed", report.held_out, "#0b6fa4", "o", "-"),
        (counted(report.n_new, "new normal image"), report.new, _FOUND_HEADING, "D", "-"),
    ]
    for name, values, colour, marker, line in series:
        if len(values):
            shown = np.maximum(values, lowest * 1.15)
            axes.plot(accepted, shown, line, color=colour, marker=marker, markersize=5, linewidth=1.4, label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(lowest, 20),
        ylim=(lowest, 100),
        title="False alarms per normal image",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("accepted", color=_TEXT_COLOUR)
    axes.set_ylabel(f"observed (none: at {lowest:g})", color=_TEXT_COLOUR)


def _tails(axes: Axes, report: TrustReport) -> None:
    expected = -np.array(QQ_LEVELS)
    axes.plot([0, 5], [0, 5], color=_QUIET_COLOUR, linewidth=1, label="as expected")
    for i, (name, row) in enumerate(zip(report.map_names, report.observed, strict=False)):
        known = np.isfinite(row)
        colour = ("#0b6fa4", "#19a3a3", "#7a5cc0", "#d96b00", "#c23b5a", "#6b8e23")[i % 6]
        axes.plot(expected[known], -np.array(row)[known], marker=".", linewidth=1.2, color=colour, label=name)
    if not report.observed:
        axes.text(2.5, 2.5, "needs two or more held-out specimens", ha="center", color=_QUIET_COLOUR)
    axes.set(xlim=(0, 5), ylim=(0, 6), title="Tails: one position in 10 to the x is this strange")
    axes.set_xlabel("expected x", color=_TEXT_COLOUR)
    axes.set_ylabel("observed x (above the line: rarer than expected)", color=_TEXT_COLOUR)


class _Page:
    """A white figure measured in inches from its upper left corner.

    Parameters
    ----------
    width, height : float
        Size in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self.figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
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
        colour: str = _TEXT_COLOUR,
    ) -> None:
        """Print plain text (a dollar sign is a dollar sign) whose upper left corner is at (left, top)."""
        self.figure.text(
            left / self.width,
            1.0 - top / self.height,
            text,
            fontsize=size,
            fontweight=weight,
            color=colour,
            va="top",
            parse_math=False,
        )

    def caption(self, left: float, top: float, row: OverviewRow) -> None:
        """Print a row's name in bold and, where the name ends, its caption."""
        name = self.figure.text(
            left / self.width,
            1.0 - (top + 0.06) / self.height,
            row.name if len(row.name) <= _LONGEST_NAME else "…" + row.name[1 - _LONGEST_NAME :],
            fontsize=9.5,
            fontweight="bold",
            color=_TEXT_COLOUR,
            va="top",
            parse_math=False,
        )
        end = name.get_window_extent().x1 / _DPI if row.name else left - 0.12
        self.text(end + 0.12, top + 0.06, row.caption, size=9.5, colour=_QUIET_COLOUR)


def _panel_size(shape: tuple[int, ...]) -> tuple[float, float]:
    """Return width and height in inches of an image that keeps its proportions."""
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
    """Reduce blocks of an image that is too large to draw; "max" keeps a single hot pixel visible."""
    factor = -(-max(values.shape[:2]) // _MAX_PIXELS)
    if factor == 1:
        return values
    edges = [(0, -size % factor) for size in values.shape[:2]] + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, edges, mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, *values.shape[2:])
    reduced: NDArray[np.float32] = blocks.max(axis=(1, 3)) if how == "max" else blocks.mean(axis=(1, 3))
    return reduced


def _show(axes: Axes, image: NDArray[np.float32], row: OverviewRow, **style: Any) -> None:
    """Draw an image in the pixel coordinates of its row, whatever it was reduced to."""
    height, width = row.image.shape[:2]
    factor = -(-max(height, width) // _MAX_PIXELS)
    extent = (-0.5, factor * image.shape[1] - 0.5, factor * image.shape[0] - 0.5, -0.5)
    axes.imshow(image, extent=extent, aspect="auto", **style)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _outline(axes: Axes, labels: NDArray[Any], colour: str) -> None:
    """Draw closed outlines around the regions, at full resolution, with a dark rim that shows on bright ground."""
    regions = np.asarray(labels)
    if regions.dtype == np.bool_:
        regions = label(regions, connectivity=2)
    lines = []
    for region in regionprops(regions):
        corner = np.array(region.bbox[:2]) - 1
        lines += [(contour + corner)[:, ::-1] for contour in find_contours(np.pad(region.image, 1), 0.5)]
    # Clipping is off so that the outline of a region at the border is not cut in half.
    axes.add_collection(LineCollection(lines, colors="black", linewidths=2.6, alpha=0.55, clip_on=False))
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=1.4, clip_on=False))
