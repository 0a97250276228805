"""Frozen features are computed once: of every tile and every turned or mirrored copy of it, into the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Progress, Steps, in_pieces, or_stop
from napari_uflow.training.cache import FeatureCache
from napari_uflow.training.tiles import TrainingTile

__all__ = ["fill_cache", "augmented", "augmented_window"]

# Tiles of one image are read together up to this many pixels a side.
_LARGEST_TOGETHER = 1536


def augmented(x: Tensor, view: int) -> Tensor:
    """Return one of the eight turned and mirrored copies of a tensor (..., M, N); views 0 to 3 keep the shape."""
    if view & 1:
        x = x.flip(-1)
    if view & 2:
        x = x.flip(-2)
    return x.transpose(-2, -1) if view & 4 else x


def fill_cache(
    cache: FeatureCache,
    network: UFlow,
    tiles: Sequence[TrainingTile],
    intensity: IntensityRange,
    n_augmentations: int,
    phase: str,
) -> Steps[None]:
    """Compute the features of all views of the tiles; the frozen backbone sees each view of an image once.

    Parameters
    ----------
    cache : FeatureCache
        Gets one entry for each tile and view.
    network : UFlow
        Its backbone computes the features.
    tiles : sequence of TrainingTile
        What to compute.
    intensity : IntensityRange
        Brightness range of the model.
    n_augmentations : int
        Turned and mirrored copies of each tile, 1 to 8; the first is the tile as it is.
    phase : str
        Name of the phase in the progress events.
    """
    device = network.device
    done, total = 0, len(tiles) * n_augmentations
    for region, windows in _read_together(tiles, network):
        outer = Window.around([network.reading_window(window, region.plane.shape) for window in windows])
        values, is_normal = region.read(outer)
        image = torch.from_numpy(intensity.apply(values))
        normal = torch.from_numpy(is_normal)
        for view in range(n_augmentations):
            yield from or_stop(Progress(phase, done, total))
            pieces = network.features_in_pieces(augmented(image, view)[None].to(device))
            levels = yield from in_pieces(pieces, Progress(phase, done, total))
            turned_normal = augmented(normal, view)
            for window in windows:
                inner = augmented_window(window.shifted(-outer.row, -outer.col), outer.shape, view)
                frame = network.frame(window, region.plane.shape)
                if frame is not None:
                    frame = augmented_window(frame, window.shape, view)
                features = [
                    x[0, :, inner.row // s : inner.stop_row // s, inner.col // s : inner.stop_col // s]
                    for x, s in zip(levels, network.strides, strict=True)
                ]
                masks = [_all_in_cells(turned_normal[inner.slices()], s) for s in network.strides]
                cache.add(features, masks, frame)
            done += len(windows)
    yield from or_stop(Progress(phase, total, total))


def _read_together(tiles: Sequence[TrainingTile], network: UFlow) -> Iterator[tuple[NormalRegion, list[Window]]]:
    """Group tiles whose surroundings overlap so much that reading them together is less work."""
    by_region: dict[int, list[TrainingTile]] = {}
    for tile in tiles:
        by_region.setdefault(id(tile.region), []).append(tile)
    for group in by_region.values():
        region, windows = group[0].region, [tile.window for tile in group]
        outers = [network.reading_window(window, region.plane.shape) for window in windows]
        hull = Window.around(outers)
        n_pixels = sum(outer.height * outer.width for outer in outers)
        is_together = network.backbone.fixed_size is None and max(hull.shape) <= _LARGEST_TOGETHER
        if is_together and hull.height * hull.width <= n_pixels:
            yield region, windows
        else:
            yield from ((region, [window]) for window in windows)


def augmented_window(window: Window, shape: tuple[int, int], view: int) -> Window:
    """Return where a window of an image of this shape lies in a view of it."""
    row, col, height, width = window.row, window.col, window.height, window.width
    if view & 1:
        col = shape[1] - window.stop_col
    if view & 2:
        row = shape[0] - window.stop_row
    return Window(col, row, width, height) if view & 4 else Window(row, col, height, width)


def _all_in_cells(mask: Tensor, stride: int) -> Tensor:
    """Return where all pixels of a stride x stride cell are set; (M, N) to (M / stride, N / stride) bool."""
    m, n = mask.shape
    return mask.reshape(m // stride, stride, n // stride, stride).all(dim=3).all(dim=1)
