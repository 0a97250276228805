"""Frozen features, computed once for every tile and each of its augmentations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Progress, Steps, chunk_steps, or_stop
from napari_uflow.training.cache import FeatureCache, Origin
from napari_uflow.training.tiles import TrainingTile

__all__ = ["augmented", "augmented_window", "fill_cache", "in_reading_order"]

# Tiles of one image are read together up to this many pixels a side.
_LARGEST_TOGETHER = 1536


def augmented(x: Tensor, augmentation: int) -> Tensor:
    """Return a tensor (..., M, N) mirrored or transposed.

    Parameters
    ----------
    x : Tensor (..., M, N)
        Image, mask or features.
    augmentation : int
        Symmetry of the square, 0 (none) to 7; 0 to 3 keep the shape, 4 to 7 return (..., N, M).
    """
    if augmentation & 1:
        x = x.flip(-1)
    if augmentation & 2:
        x = x.flip(-2)
    return x.transpose(-2, -1) if augmentation & 4 else x


def augmented_window(window: Window, shape: tuple[int, int], augmentation: int) -> Window:
    """Return the position of a window after the augmentation of the image around it.

    Parameters
    ----------
    window : Window
        Window of the image, in pixels.
    shape : (int, int)
        Rows and columns of the image.
    augmentation : int
        As for :func:`augmented`.
    """
    row, col, height, width = window.row, window.col, window.height, window.width
    if augmentation & 1:
        col = shape[1] - window.stop_col
    if augmentation & 2:
        row = shape[0] - window.stop_row
    return Window(col, row, width, height) if augmentation & 4 else Window(row, col, height, width)


def fill_cache(
    cache: FeatureCache,
    network: UFlow,
    tiles: Sequence[TrainingTile],
    intensity: IntensityRange,
    n_augmentations: int,
    phase: str,
) -> Steps[list[str]]:
    """Compute the features of all augmentations of the tiles; the backbone sees each augmented image once.

    Parameters
    ----------
    cache : FeatureCache
        Gets one entry for each tile and augmentation; one that is given several times keeps its number.
    network : UFlow
        Its backbone computes the features.
    tiles : sequence of TrainingTile
        Tiles to compute.
    intensity : IntensityRange
        Brightness range of the model.
    n_augmentations : int
        Augmentations of each tile, 1 to 8; the first leaves the tile as it is.
    phase : str
        Name of the phase in the progress events.

    Returns
    -------
    list of str
        Titles of the images whose normal pixels have one value in all of their tiles: nothing can be learned from them.
    """
    is_flat: dict[str, bool] = {}
    number_of = {tile: i for i, tile in enumerate(in_reading_order(tiles, network))}
    done, total = 0, len(tiles) * n_augmentations
    for region, windows in _read_together(tiles, network):
        outer = Window.around([network.reading_window(window, region.plane.shape) for window in windows])
        values, is_normal = region.read(outer)
        title = region.plane.title
        is_flat[title] = is_flat.get(title, True) and _has_one_value(values, is_normal)
        image = torch.from_numpy(intensity.apply(values))
        normal = torch.from_numpy(is_normal)
        for augmentation in range(n_augmentations):
            yield from or_stop(Progress(phase, done, total))
            computed = network.features_in_chunks(augmented(image, augmentation)[None].to(network.device))
            levels = yield from chunk_steps(computed, Progress(phase, done, total))
            if augmentation:  # only the flow is trained on it
                levels = network.of_flow(levels)
            mask = augmented(normal, augmentation)
            for window in windows:
                inner = augmented_window(window.shifted(-outer.row, -outer.col), outer.shape, augmentation)
                frame = network.frame(window, region.plane.shape)
                if frame is not None:
                    frame = augmented_window(frame, window.shape, augmentation)
                number = number_of[TrainingTile(region, window)]
                origin = Origin(region.specimen, number, region.is_marked_normal, augmentation > 0)
                _add(cache, levels, mask, inner, frame, network.strides, origin)
            done += len(windows)
    yield from or_stop(Progress(phase, total, total))
    return [title for title, flat in is_flat.items() if flat]


def _has_one_value(values: NDArray[np.float32], is_normal: NDArray[np.bool_]) -> bool:
    """Return True if the normal pixels of an image (C, M, N) are the same in each channel."""
    normal = values[:, is_normal]
    return normal.size > 0 and bool((normal.min(axis=1) == normal.max(axis=1)).all())


def in_reading_order(tiles: Sequence[TrainingTile], network: UFlow) -> list[TrainingTile]:
    """Return tiles, each once, in the order in which :func:`fill_cache` numbers them."""
    ordered = (TrainingTile(region, window) for region, windows in _read_together(tiles, network) for window in windows)
    return list(dict.fromkeys(ordered))


def _add(
    cache: FeatureCache,
    levels: Sequence[Tensor],
    mask: Tensor,
    inner: Window,
    frame: Window | None,
    strides: Sequence[int],
    origin: Origin,
) -> None:
    """Add one tile: the window `inner` of an image with features `levels`, each (1, C_l, M_l, N_l), and its mask."""
    features = []
    for x, stride in zip(levels, strides, strict=True):
        rows, cols = inner.scaled(stride).slices()
        features.append(x[0, :, rows, cols])
    cache.add(features, [_all_in_cells(mask[inner.slices()], stride) for stride in strides], frame, origin)


def _read_together(tiles: Sequence[TrainingTile], network: UFlow) -> Iterator[tuple[NormalRegion, list[Window]]]:
    """Group tiles of one region if reading them together, with their surroundings, is less work."""
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


def _all_in_cells(mask: Tensor, stride: int) -> Tensor:
    """Return which stride x stride cells are set throughout; (M, N) to (M / stride, N / stride) bool."""
    m, n = mask.shape
    return mask.reshape(m // stride, stride, n // stride, stride).all(dim=3).all(dim=1)
