"""What a job will take, told before it starts: tiles, memory, time. Nothing of the images is read for it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from napari_uflow._napari.session.job import in_words
from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ConfigError
from napari_uflow.image.region import NormalRegion
from napari_uflow.system.memory import MOST_OF_PROCESSOR, detection_bytes, tile_that_fits
from napari_uflow.training.regions import assign_specimens
from napari_uflow.training.tiles import choose_tiles
from napari_uflow.wording import counted

__all__ = ["DetectionEstimate", "TrainingEstimate", "estimate_detection", "estimate_training", "speed_of"]


@dataclass(frozen=True)
class _Cost:
    """What a backbone costs.

    Its coarsest stride, the sum of its strides, the pixels it sees around a tile, feature values per pixel (of one
    channel, of each further one), the only tile it takes, and seconds of one core per million pixels for the features,
    for a step of the flow, and for a detection in all.
    """

    stride: int
    strides: int
    halo: int
    values: float
    further_values: float
    fixed_tile: int | None
    feature_seconds: float
    step_seconds: float
    detection_seconds: float


# Values per pixel follow from the channels and strides of the levels (a test compares). Seconds were measured on one
# core of a 2.1 GHz server, tiles of 256 pixels, 4 steps of the flow; of mcait they are a guess from its size.
_COSTS = {
    "scattering": _Cost(16, 28, 80, 8.97, 8.97, None, 1.7, 6.0, 2.3),
    "resnet18": _Cost(16, 28, 112, 7.0, 0.0, None, 0.8, 1.8, 1.8),
    "wide_resnet50_2": _Cost(16, 28, 144, 28.0, 0.0, None, 6.4, 48.0, 18.0),
    "mcait": _Cost(32, 48, 64, 3.375, 0.0, 448, 60.0, 12.0, 70.0),
}
# Bytes a training holds for each feature value of a batch, and besides: from the peak memory of trainings with 2 and 8
# tiles of 256 pixels in a batch (scattering, 4 steps of the flow): 1.19 and 1.71 GB. An estimate for other backbones.
_BYTES_PER_VALUE = 150
_BYTES_OF_PROGRAM = 1.0e9
_SECONDS_PER_STEP = 0.1
# Three maps; in files where they are large, but resident while they are worked on.
_MAP_BYTES_PER_PIXEL = 12
_SECONDS_PER_PLANE = 0.05
# What a run begins with and does not grow with the image, about; runs that are shorter are no measure of the machine.
_SECONDS_TO_BEGIN = 2.0
# `specimens_needed(1.0)`, which a test compares: to ask it loads numba, and the window stands still for a second.
_SPECIMENS_NEEDED = 3


def speed_of(began: float, said: float) -> float:
    """Return how much longer a run took than was said, for the next estimate; a short run says little.

    Parameters
    ----------
    began : float
        When it began, by `time.monotonic`.
    said : float
        Seconds that were said.
    """
    took = time.monotonic() - began
    return min(max((took + _SECONDS_TO_BEGIN) / (said + _SECONDS_TO_BEGIN), 0.02), 50.0)


@dataclass(frozen=True)
class TrainingEstimate:
    """What a training will take.

    Attributes
    ----------
    n_planes : int
        Images, each plane of a stack one.
    n_tiles, n_holdout_tiles : int
        Tiles to train on, and held out.
    n_specimens, n_holdout_specimens : int
        Independent fields they come from.
    memory, disk : float
        Bytes, roughly.
    seconds : float
        On the processor, very roughly.
    """

    n_planes: int
    n_tiles: int
    n_holdout_tiles: int
    n_specimens: int
    n_holdout_specimens: int
    memory: float
    disk: float
    seconds: float

    def text(self, speed: float = 1.0) -> str:
        """Return it in words; `speed` is how much longer the last run took than was said."""
        disk = f" and {self.disk / 1e9:.1f} GB of disk" if self.disk else ""
        is_one = self.n_specimens == self.n_holdout_specimens == 1
        specimens = f"{counted(self.n_specimens, 'field')}, {counted(self.n_holdout_specimens, 'field')} held out"
        return (
            f"{counted(self.n_tiles, 'tile')} to train on, {self.n_holdout_tiles} held out "
            f"({'one specimen, of which a part is held out' if is_one else specimens}). "
            f"About {self.memory / 1e9:.1f} GB of memory{disk}, {in_words(self.seconds * speed)} without a GPU."
        )

    def advice(self) -> str:
        """Return what the held-out specimens allow to guarantee."""
        is_one = self.n_specimens == self.n_holdout_specimens == 1
        separate = " If each plane is a specimen of its own, say so under 'Planes are'." if self.n_planes > 1 else ""
        if not self.n_holdout_tiles:
            nothing = "Nothing can be held out: add images of other specimens, or the result will be too optimistic."
            return nothing + (separate if self.n_specimens == 1 else "")
        if self.n_holdout_specimens < _SPECIMENS_NEEDED:
            return (
                f"With {counted(self.n_holdout_specimens, 'field')} held out the number of false alarms is an estimate; "
                f"a guarantee takes at least {_SPECIMENS_NEEDED}.{separate if is_one else ''}"
            )
        return ""


class _Unread:
    """The shape of an array whose pixels nobody looks at."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> Any:
        raise TypeError("pixels are not read for an estimate")


@dataclass(frozen=True)
class DetectionEstimate:
    """What a detection will take.

    Attributes
    ----------
    n_planes : int
        Images.
    memory : float
        Bytes, roughly.
    seconds : float
        On the processor, very roughly.
    """

    n_planes: int
    memory: float
    seconds: float

    def text(self, speed: float = 1.0) -> str:
        """Return it in words; `speed` is how much longer the last run took than was said."""
        return (
            f"{counted(self.n_planes, 'plane')}: about {max(self.memory / 1e9, 0.1):.1f} GB of memory, "
            f"{in_words(self.seconds * speed)} without a GPU."
        )


def estimate_detection(shapes: Sequence[tuple[int, int]], model: ModelConfig, tile: int) -> DetectionEstimate:
    """Return what a detection in images of these shapes will take.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Rows and columns of each image.
    model : ModelConfig
        What the model is made of.
    tile : int
        Side of the tiles they are read in; 0 where it is chosen.
    """
    cost = _COSTS[model.backbone]
    pixels = [rows * cols for rows, cols in shapes]
    flow_halo = 2 * ((model.flow_steps + 1) // 2) * cost.strides
    looks = (cost.values, cost.halo, flow_halo)
    needed = [
        detection_bytes(shape, tile or tile_that_fits(shape, *looks, MOST_OF_PROCESSOR), *looks)
        for shape in set(shapes)
    ]
    memory = max(needed, default=0.0) + max(pixels, default=0) * _MAP_BYTES_PER_PIXEL
    seconds = cost.detection_seconds * sum(pixels) / 1e6 / max(1.0, (os.cpu_count() or 1) ** 0.7)
    return DetectionEstimate(len(shapes), memory, seconds + _SECONDS_PER_PLANE * len(shapes))


def estimate_training(
    regions: Sequence[NormalRegion], model: ModelConfig, training: TrainingConfig
) -> TrainingEstimate:
    """Return what a training on these regions will take.

    Raises
    ------
    ImageError
        If no tile is normal enough.
    """
    cost = _COSTS[model.backbone]
    tile = cost.fixed_tile or model.tile
    if tile % cost.stride:
        raise ConfigError(f"the tile size must be a multiple of {cost.stride} pixels, not {tile}")
    unread = [
        NormalRegion(
            replace(region.plane, data=_Unread(tuple(region.plane.data.shape))),
            region.mask,
            region.specimen,
            is_marked_normal=region.is_marked_normal,
        )
        for region in assign_specimens(regions, training.specimen_pattern)
    ]
    chosen, held_out = choose_tiles(unread, tile, cost.stride, training, np.random.default_rng(training.seed))
    n_channels = regions[0].plane.n_channels
    values = cost.values + cost.further_values * (n_channels - 1)
    effort = values / cost.values * model.flow_steps / 4
    pixels = [sum(t.window.height * t.window.width for t in tiles) for tiles in (chosen, held_out)]
    features = 2 * values * (pixels[0] * training.augmentations + pixels[1])
    limit = training.cache_memory * 1.25e9
    rows, cols = (min(tile, max(region.plane.shape[axis] for region in regions)) for axis in (0, 1))
    batch = training.batch_size * rows * cols * values * _BYTES_PER_VALUE * model.flow_steps / 4
    overhead = _SECONDS_PER_STEP * training.steps
    n_looks = training.steps / training.check_every
    megapixels = (
        cost.feature_seconds * values / cost.values * (pixels[0] * training.augmentations + 2 * pixels[1])
        + cost.step_seconds * effort * training.steps * min(training.batch_size * tile * tile, pixels[0] * 1.0)
        + cost.step_seconds * effort * n_looks * pixels[1] / 3
    ) / 1e6
    return TrainingEstimate(
        len(regions),
        len(chosen),
        len(held_out),
        len({t.region.specimen for t in chosen}),
        len({t.region.specimen for t in held_out}),
        _BYTES_OF_PROGRAM + batch + min(features, limit),
        max(0.0, features - limit),
        overhead + megapixels / max(1.0, (os.cpu_count() or 1) ** 0.7),
    )
