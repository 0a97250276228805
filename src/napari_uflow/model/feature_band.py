"""Features of a horizontal band of an image: the backbone computes each position once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow.image.grid import TileGrid, Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import Plane
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Progress, Steps, chunk_steps

__all__ = ["FeatureBand", "LevelView", "all_in_cells"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelView:
    """Window of one level of the flow that determines the latents of a tile.

    Attributes
    ----------
    stride : int
        Pixels per position of the level.
    window : Window
        Window in pixels; its borders are multiples of the coarsest stride.
    frame : Window or None
        Image as seen from the window, in pixels; None for a network without a treatment of the border.
    """

    stride: int
    window: Window
    frame: Window | None

    def positions_of(self, inner: Window) -> tuple[slice, slice]:
        """Return the rows and columns, in positions of this view, of a window inside it."""
        return inner.shifted(-self.window.row, -self.window.col).scaled(self.stride).slices()

    def positions_in(self, coarser: LevelView) -> tuple[slice, slice]:
        """Return the rows and columns, in positions of this level, of this view inside that of a coarser level."""
        return self.window.shifted(-coarser.window.row, -coarser.window.col).scaled(self.stride).slices()


@dataclass(slots=True)
class _Level:
    """Features of one level, and a mask (M / stride, N / stride) of valid positions, None while all are valid."""

    stride: int
    features: torch.Tensor
    valid: NDArray[np.bool_] | None = None


class FeatureBand:
    """Features of the rows of an image that the flow requires at a time.

    The flow's windows overlap, and features of the whole image need more memory than the image. The band is as high as
    a row of windows, over the whole width.

    Parameters
    ----------
    network : UFlow
        Network in evaluation mode.
    intensity : IntensityRange
        Brightness range of the model.
    plane : Plane
        Image to read.
    window : Window
        Part of the image to compute, in pixels; its corner lies at multiples of the coarsest stride.
    grid : TileGrid
        Tiles of that part; coordinates of all methods count from its corner.
    """

    def __init__(self, network: UFlow, intensity: IntensityRange, plane: Plane, window: Window, grid: TileGrid):
        self._network, self._intensity, self._plane, self._window = network, intensity, plane, window
        self._device = network.device
        align = grid.align
        self._height, self._width = (-(-size // align) * align for size in window.shape)
        self._cols = sorted({-(-tile.inner.stop_col // align) * align for tile in grid})
        self._capacity = max(tile.outer.height for tile in grid)
        self._levels: list[_Level] = []  # made with the first features, whose channels are known then
        # The band starts at row `first`. Rows before `row` are complete; of rows `row` to `stop`, columns before `col`.
        self._first = self._row = self._stop = self._col = 0
        self._n_outside = np.zeros(plane.n_channels)
        self._n_measured = np.zeros(plane.n_channels)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the window in pixels, rounded up to multiples of the coarsest stride."""
        return self._height, self._width

    @property
    def outside(self) -> float:
        """Fraction of the measured pixels out of the model's range, in the channel with the highest fraction."""
        return float(np.max(self._n_outside / np.maximum(self._n_measured, 1)))

    def cover(self, outer: Window, progress: Progress | None) -> Steps[None]:
        """Compute the missing features of a window; windows must be asked for row by row, from left to right."""
        if outer.stop_row > self._stop:
            self._keep_from(outer.row)
            self._row, self._stop, self._col = self._stop, outer.stop_row, 0
        while self._col < min(outer.stop_col, self._width):
            stop_col = next(col for col in self._cols if col > self._col)
            chunk = Window(self._row, self._col, self._stop - self._row, stop_col - self._col)
            yield from self._compute(chunk, progress)
            self._col = stop_col

    def features(self, views: Sequence[LevelView]) -> list[torch.Tensor]:
        """Return the features (1, C, m, n) in the views of each level, which must be covered; no copies."""
        found = []
        for level, view in zip(self._levels, views, strict=True):
            rows, cols = view.window.shifted(-self._first, 0).scaled(level.stride).slices()
            found.append(level.features[:, :, rows, cols])
        return found

    def valid(self, views: Sequence[LevelView]) -> list[NDArray[np.bool_] | None]:
        """Return a mask (m, n) of the fully measured positions in each view; None if all of them are."""
        return [
            None if level.valid is None else level.valid[view.window.scaled(level.stride).slices()]
            for level, view in zip(self._levels, views, strict=True)
        ]

    def _keep_from(self, row: int) -> None:
        """Move the rows that are still needed to the top of the band."""
        for level in self._levels:
            first, stop = (row - self._first) // level.stride, (self._stop - self._first) // level.stride
            kept = level.features[:, :, first:stop]
            level.features[:, :, : kept.shape[2]] = kept.clone()
        self._first = row

    def _compute(self, chunk: Window, progress: Progress | None) -> Steps[None]:
        network, window = self._network, self._window
        wanted = chunk.shifted(window.row, window.col)
        outer = network.reading_window(wanted, self._plane.shape)
        values = self._plane.read(outer)
        self._count(values, wanted, outer)
        is_valid: NDArray[np.bool_] = np.isfinite(values.sum(axis=0))
        image = torch.from_numpy(self._intensity.apply(values))[None]
        if self._device.type == "cuda":  # copied from pinned memory while the GPU computes
            image = image.pin_memory().to(self._device, non_blocking=True)
        else:
            image = image.to(self._device)
        features = yield from chunk_steps(network.features_in_chunks(image), progress)
        if not self._levels:
            self._levels = [self._new_level(x, stride) for x, stride in zip(features, network.strides, strict=True)]
        inner = wanted.shifted(-outer.row, -outer.col)
        place = chunk.shifted(-self._first, 0)
        for x, level in zip(features, self._levels, strict=True):
            rows, cols = inner.scaled(level.stride).slices()
            at_rows, at_cols = place.scaled(level.stride).slices()
            level.features[:, :, at_rows, at_cols] = x[:, :, rows, cols]
        self._keep_valid(is_valid[inner.slices()], chunk)

    def _new_level(self, x: torch.Tensor, stride: int) -> _Level:
        size = (1, x.shape[1], self._capacity // stride, self._width // stride)
        return _Level(stride, torch.empty(size, dtype=x.dtype, device=x.device))

    def _count(self, values: NDArray[np.float32], wanted: Window, outer: Window) -> None:
        own = wanted.clipped((self._window.stop_row, self._window.stop_col))
        rows, cols = own.shifted(-outer.row, -outer.col).slices()
        pixels = values[:, rows, cols].reshape(len(values), -1)
        low, high = (np.array(limits)[:, None] for limits in (self._intensity.low, self._intensity.high))
        self._n_measured += np.isfinite(pixels).sum(axis=1)
        self._n_outside += ((pixels < low) | (pixels > high)).sum(axis=1)

    def _keep_valid(self, is_valid: NDArray[np.bool_], chunk: Window) -> None:
        is_all = bool(is_valid.all())
        for level in self._levels:
            if level.valid is None:
                if is_all:
                    continue
                level.valid = np.ones((self._height // level.stride, self._width // level.stride), bool)
            level.valid[chunk.scaled(level.stride).slices()] = all_in_cells(is_valid, level.stride)


def all_in_cells(mask: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    """Reduce a mask (M, N) bool to cells (M / stride, N / stride) bool, true if all pixels of the cell are."""
    m, n = mask.shape
    cells: NDArray[np.bool_] = np.min(mask.reshape(m // stride, stride, n // stride, stride), axis=(1, 3))
    return cells
