"""The calibration of a trained network on held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.border import replicated_mask
from napari_uflow.model.feature_band import all_in_cells
from napari_uflow.model.inference import score_steps
from napari_uflow.model.uflow import UFlow
from napari_uflow.nfa.calibrated import Calibration, CalibrationImage
from napari_uflow.nfa.calibration import FEWEST_POSITIONS
from napari_uflow.progress import Progress, Steps
from napari_uflow.system.devices import memory_for_tiles
from napari_uflow.training.tiles import TrainingTile, regions_of

__all__ = ["calibrate_steps", "n_positions"]

# Side of what is looked at of a held-out image, and pixels in all.
_CALIBRATION_SIDE = 2048


_CALIBRATION_PIXELS = 32_000_000


def calibrate_steps(network: UFlow, intensity: IntensityRange, tiles: Sequence[TrainingTile]) -> Steps[Calibration]:
    """Find out what the network says of normal images, best of images that were held out.

    Parameters
    ----------
    network : UFlow
        Trained, in evaluation mode.
    intensity : IntensityRange
        Brightness range of the model.
    tiles : sequence of TrainingTile
        Each of their images is looked at where its tiles lie, up to 2048 pixels a side and 32 million in all.
    """
    network.eval()
    device = network.device
    windows = _calibration_windows(tiles, max(network.strides))
    phase = "Looking at held-out images"
    images: list[CalibrationImage] = []
    strides: tuple[int, ...] = ()
    for done, (region, window) in enumerate(windows):
        yield Progress(phase, done, len(windows))
        tile = network.tile_that_fits(window.shape, memory_for_tiles(device))
        scores = yield from score_steps(network, intensity, region.plane, window=window, tile=tile, phase=None)
        scores = scores.only(region.normal(window))
        strides = scores.tested_strides
        images.append(CalibrationImage(region.specimen, scores.tested))
    yield Progress(phase, len(windows), len(windows))
    return (yield from Calibration.fit_steps(images, strides))


def _calibration_windows(tiles: Sequence[TrainingTile], align: int) -> list[tuple[NormalRegion, Window]]:
    """Choose what to look at in the images of the tiles: fields in turn, as far as the pixels go."""
    by_specimen: dict[str, list[tuple[NormalRegion, Window]]] = {}
    for region in regions_of(tiles):
        hull = Window.around(tile.window for tile in tiles if tile.region is region)
        hull = hull.clipped(region.plane.shape)
        side = _CALIBRATION_SIDE // align * align
        row = hull.row + max(0, hull.height - side) // 2 // align * align
        col = hull.col + max(0, hull.width - side) // 2 // align * align
        window = Window(row, col, min(side, hull.stop_row - row), min(side, hull.stop_col - col))
        by_specimen.setdefault(region.specimen, []).append((region, window))
    chosen: list[tuple[NormalRegion, Window]] = []
    n_pixels = 0
    for turn in zip_longest(*by_specimen.values()):
        for item in turn:
            if item is not None and (n_pixels < _CALIBRATION_PIXELS or len(chosen) < len(by_specimen)):
                chosen.append(item)
                n_pixels += item[1].height * item[1].width
    return chosen


def n_positions(tiles: Sequence[TrainingTile], network: UFlow) -> int:
    """Count the normal positions of the coarsest level that a calibration would see."""
    stride = max(network.strides)
    n = 0
    for region, window in _calibration_windows(tiles, stride):
        rows, cols = (-(-size // stride) * stride for size in window.shape)
        normal = all_in_cells(region.normal(Window(window.row, window.col, rows, cols)), stride)
        n += int(replicated_mask(normal, network.replicated_frame(window, region.plane.shape), stride).sum())
        if n >= FEWEST_POSITIONS:
            break
    return n
