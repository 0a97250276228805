"""Figures as files and pixels, and the colours they share.

Figures use Matplotlib's object-oriented interface only: no pyplot, no window, no global state, so they may be drawn in
any thread and in any Qt application. Every colour is set here, whatever the user's style sheet says.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from napari_uflow import __version__
from napari_uflow.errors import ConfigError
from napari_uflow.store.files import atomic_path

__all__ = ["DPI", "FOUND_HEADING", "QUIET_COLOUR", "TEXT_COLOUR", "figure_pixels", "save_figure"]

DPI = 120
TEXT_COLOUR = "#1f2328"
QUIET_COLOUR = "#6a737d"
FOUND_HEADING = "#d96b00"
"""Colour of detected regions on white."""


def save_figure(fig: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file, completely or not at all.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        Figure, written at its own resolution.
    path : path-like
        File to write; the suffix selects the format (``.png``, ``.pdf``, ``.svg``). An existing file is replaced in one
        step, or kept if writing fails.

    Raises
    ------
    ConfigError
        If Matplotlib cannot write the format of the suffix.
    UFlowError
        If the file cannot be written.
    """
    target = Path(path)
    kind = target.suffix[1:].lower()
    if kind not in fig.canvas.get_supported_filetypes():
        raise ConfigError(f"cannot write a figure to {target.name!r}: the name must end in .png, .pdf or .svg")
    # by which `store.provenance` knows the files
    metadata = {"Software": f"napari-uflow {__version__}"} if kind == "png" else None
    with atomic_path(target) as draft:
        fig.savefig(draft, format=kind, dpi=fig.dpi, facecolor="white", metadata=metadata)


def figure_pixels(fig: Figure) -> NDArray[np.uint8]:
    """Draw a figure with an Agg canvas and return its pixels, (M, N, 4) uint8 RGBA."""
    canvas = fig.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba(), np.uint8)  # type: ignore[no-untyped-call]
