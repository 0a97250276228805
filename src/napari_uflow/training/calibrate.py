"""The calibration of a trained network on held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from napari_uflow.image.condition import conditions_of
from napari_uflow.image.grid import TileGrid, Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.region import NormalRegion
from napari_uflow.image.scaled import scale_of
from napari_uflow.model.feature_band import all_in_cells
from napari_uflow.model.inference import score_steps
from napari_uflow.model.uflow import UFlow
from napari_uflow.nfa.calibrated import Calibration, CalibrationImage
from napari_uflow.nfa.calibration import FEWEST_POSITIONS
from napari_uflow.progress import Progress, Steps
from napari_uflow.system.devices import memory_for_tiles
from napari_uflow.training.folds import Fold
from napari_uflow.training.tiles import TrainingTile, regions_of

__all__ = ["calibrate_steps", "has_enough_positions"]

# Side of the part of a held-out image that is scored, and pixels of all parts: of the image, or of what the network
# sees if that is less.
_CALIBRATION_SIDE = 2048
_CALIBRATION_PIXELS = 32_000_000
# Side of the parts in which normal pixels are looked up. A magnified image is computed for it: 2048 pixels of three
# channels at magnification 2 need 65 MB in parts and 755 MB as a whole.
_SCAN_TILE = 1024


def calibrate_steps(
    network: UFlow,
    intensity: IntensityRange,
    tiles: Sequence[TrainingTile],
    *,
    only_tiles: bool = False,
    folds: Sequence[Fold] = (),
    condition_pattern: str = "",
) -> Steps[Calibration]:
    """Fit a calibration to the scores of normal images.

    Parameters
    ----------
    network : UFlow
        Trained, in evaluation mode.
    intensity : IntensityRange
        Brightness range of the model.
    tiles : sequence of TrainingTile
        Held-out tiles, or training tiles if there are none. The part of each image that its tiles cover is scored, up
        to 2048 pixels of the image a side, and 32 million pixels in all.
    only_tiles : bool
        True if the network was trained on other places of these images: only the tiles count, not what is between them.
    folds : sequence of Fold
        Images of their specimens are scored by the networks that were trained without them.
    condition_pattern : str
        Pattern of the conditions, see :func:`~napari_uflow.image.condition.conditions_of`.

    Raises
    ------
    TooFewPositionsError
        If a map has too few normal positions.
    """
    network.eval()
    windows = _calibration_windows(tiles, network.align)
    phase = "Scoring held-out images"
    images: list[CalibrationImage] = []
    strides: tuple[int, ...] = ()
    conditions = conditions_of([region.plane for region, _ in windows], condition_pattern)
    for done, ((region, window), condition) in enumerate(zip(windows, conditions, strict=True)):
        yield Progress(phase, done, len(windows))
        tile = network.tile_that_fits(window.shape, memory_for_tiles(network.device))
        state = next((fold.state for fold in folds if region.specimen in fold.specimens), {})
        with network.with_state(state), network.remembering_others(region.specimen):
            scores = yield from score_steps(network, intensity, region.plane, window=window, tile=tile, phase=None)
        normal = _normal(region, window)
        if only_tiles:
            normal &= _covered(window, [tile.window for tile in tiles if tile.region is region])
        scores = scores.only(normal)
        strides = tuple(int(stride) for stride in scores.tested_strides)
        images.append(CalibrationImage(region.specimen, scores.tested, condition or ""))
    yield Progress(phase, len(windows), len(windows))
    return (yield from Calibration.fit_steps(images, strides, subtracts_median=None if network.is_joint else True))


def has_enough_positions(network: UFlow, tiles: Sequence[TrainingTile]) -> bool:
    """Return True if the coarsest level has enough normal positions for a calibration.

    Parameters
    ----------
    network, tiles
        As for :func:`calibrate_steps`.
    """
    stride = max(network.strides)
    n = 0
    for region, window in _calibration_windows(tiles, network.align):
        rows, cols = (-(-size // stride) * stride for size in window.shape)
        normal = all_in_cells(_normal(region, Window(window.row, window.col, rows, cols)), stride)
        n += int(network.border.mask(normal, network.frame(window, region.plane.shape), stride).sum())
        if n >= FEWEST_POSITIONS:
            return True
    return False


def _calibration_windows(tiles: Sequence[TrainingTile], align: int) -> list[tuple[NormalRegion, Window]]:
    """Choose the parts of the tiles' images to score: of the specimens in turn, up to the limit of pixels."""
    by_specimen: dict[str, list[tuple[NormalRegion, Window]]] = {}
    for region in regions_of(tiles):
        hull = Window.around(tile.window for tile in tiles if tile.region is region)
        hull = hull.clipped(region.plane.shape)
        side = int(_CALIBRATION_SIDE * _magnification(region)) // align * align
        row = hull.row + max(0, hull.height - side) // 2 // align * align
        col = hull.col + max(0, hull.width - side) // 2 // align * align
        window = Window(row, col, min(side, hull.stop_row - row), min(side, hull.stop_col - col))
        by_specimen.setdefault(region.specimen, []).append((region, window))
    chosen: list[tuple[NormalRegion, Window]] = []
    n_pixels = 0.0
    for turn in zip_longest(*by_specimen.values()):
        for item in turn:
            if item is not None and (n_pixels < _CALIBRATION_PIXELS or len(chosen) < len(by_specimen)):
                chosen.append(item)
                n_pixels += item[1].height * item[1].width / _magnification(item[0]) ** 2
    return chosen


def _covered(window: Window, tiles: Sequence[Window]) -> NDArray[np.bool_]:
    """Return which pixels of a window are in one of the tiles."""
    covered = np.zeros(window.shape, dtype=np.bool_)
    for tile in tiles:
        covered[tile.shifted(-window.row, -window.col).clipped(window.shape).slices()] = True
    return covered


def _magnification(region: NormalRegion) -> float:
    """Return the side of what the network sees over that of the image, 1 or more."""
    return max(1.0, scale_of(region.plane))


def _normal(region: NormalRegion, window: Window) -> NDArray[np.bool_]:
    """Return the mask of the normal pixels of a window, read in parts: the pixels of a large one need much memory."""
    normal = np.empty(window.shape, dtype=bool)
    for part in TileGrid(window.shape, tile=_SCAN_TILE, halo=0, align=1):
        normal[part.inner.slices()] = region.normal(part.inner.shifted(window.row, window.col))
    return normal
