"""Estimates of a job before it starts: tiles, memory, time. No pixel is read for them."""

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
from napari_uflow.model.info import BACKBONES, JOINT_STRIDE, has_joint_levels
from napari_uflow.system.memory import MOST_OF_PROCESSOR, detection_bytes, tile_that_fits
from napari_uflow.training.regions import assign_specimens
from napari_uflow.training.tiles import choose_tiles
from napari_uflow.wording import counted

__all__ = ["DetectionEstimate", "TrainingEstimate", "estimate_detection", "estimate_training", "speed_of"]


# Memory of a training per feature value of a batch, and its constant part: from the peak memory with 2 and 8 tiles of
# 256 pixels in a batch (scattering, 4 flow steps), 1.19 and 1.71 GB. An estimate for other backbones.
_BYTES_PER_VALUE = 150
_BYTES_OF_PROGRAM = 1.0e9
_SECONDS_PER_STEP = 0.1
# Joint levels: a step over that of a pyramid (0.47 for scattering, 0.6 for efficientnet_lite2 and resnet18, in the same
# rounds), and seconds of one core to compare a position with a vector of the memory, per channel.
_JOINT_STEP = 0.5
_SECONDS_PER_COMPARISON = 2.3e-11
# Tiles that the scale of the evidence is fitted to, as in `training.evidence`; a test compares both.
_MOST_MEASURED = 200
# Three maps; disk-backed if they are large, but resident while they are computed.
_MAP_BYTES_PER_PIXEL = 12
_SECONDS_PER_PLANE = 0.05
# Start-up time that does not grow with the image, roughly; shorter runs do not measure the machine.
_SECONDS_TO_BEGIN = 2.0
# `specimens_needed(1.0)`, and the number of images of which as many are held out; a test compares both. The function
# itself loads numba, which blocks the window for a second.
_SPECIMENS_NEEDED, _IMAGES_NEEDED = 3, 8


def speed_of(began: float, estimated: float) -> float:
    """Return the ratio of actual to estimated time, damped for short runs; it scales the next estimate.

    Parameters
    ----------
    began : float
        Start of the run, by `time.monotonic`.
    estimated : float
        Estimated seconds.

    Returns
    -------
    float
        0.02 to 50.
    """
    took = time.monotonic() - began
    return min(max((took + _SECONDS_TO_BEGIN) / (estimated + _SECONDS_TO_BEGIN), 0.02), 50.0)


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """Estimate of a training.

    Attributes
    ----------
    n_planes : int
        Planes with normal regions.
    n_tiles, n_holdout_tiles : int
        Tiles to train on, and held out.
    n_specimens, n_holdout_specimens : int
        Specimens of these tiles.
    is_divided : bool
        True if there is only one specimen, divided into a part to train on and a held-out part.
    memory, disk : float
        Bytes, rough.
    seconds : float
        Time without a GPU, very rough.
    """

    n_planes: int
    n_tiles: int
    n_holdout_tiles: int
    n_specimens: int
    n_holdout_specimens: int
    is_divided: bool
    memory: float
    disk: float
    seconds: float

    def text(self, speed: float = 1.0) -> str:
        """Return the estimate in words; `speed` is the result of :func:`speed_of`."""
        disk = f" and {self.disk / 1e9:.1f}\u00a0GB of disk" if self.disk else ""
        memory = f"{self.memory / 1e9:.1f}\u00a0GB of memory{disk}"
        return f"{self._images()}{self._split()}. About {memory}, {in_words(self.seconds * speed)} without a GPU."

    def _images(self) -> str:
        n_specimens = 1 if self.is_divided else self.n_specimens + self.n_holdout_specimens
        if n_specimens == self.n_planes:
            return ""
        return f"{counted(self.n_planes, 'image')} from {counted(n_specimens, 'specimen')}. "

    def _split(self) -> str:
        tiles, holdout_tiles = counted(self.n_tiles, "tile"), counted(self.n_holdout_tiles, "tile")
        if self.is_divided:
            return f"Trains on one part of the specimen ({tiles}), keeps the other back ({holdout_tiles})"
        noun = "image" if self.n_specimens + self.n_holdout_specimens == self.n_planes else "specimen"
        trains = f"Trains on {counted(self.n_specimens, noun)} ({tiles})"
        if not self.n_holdout_tiles:
            return f"{trains}, keeps none back to count false alarms"
        return f"{trains}, keeps {self.n_holdout_specimens} back ({holdout_tiles}) to count false alarms"

    def advice(self) -> str:
        """Return a remedy for too few held-out specimens; "" if a number of false alarms can be guaranteed."""
        if self.n_holdout_specimens >= _SPECIMENS_NEEDED:
            return ""
        is_one = self.is_divided or (not self.n_holdout_tiles and self.n_specimens == 1)
        separate = " If they show different specimens, set this in 'Separate images' or 'Stack planes'."
        separate = separate if is_one and self.n_planes > 1 else ""
        if not self.n_holdout_tiles:
            return f"Without held-out tiles false alarms are underestimated; add images of other specimens.{separate}"
        return (
            f"False alarms are only estimated; add normal images ({_IMAGES_NEEDED} or more) for a guaranteed number."
            f"{separate}"
        )


def _comparing(model: ModelConfig, n_pixels: float, n_vectors: float) -> float:
    """Return the seconds of one core to compare the positions of `n_pixels` pixels with the memory."""
    if not has_joint_levels(model) or model.evidence == "likelihood":
        return 0.0
    return _SECONDS_PER_COMPARISON * sum(BACKBONES[model.backbone].channels) * n_vectors * n_pixels / JOINT_STRIDE**2


class _Unread:
    """Shape of an array whose pixels must not be read."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> Any:
        raise TypeError("an estimate reads no pixels")


@dataclass(frozen=True)
class DetectionEstimate:
    """Estimate of a detection.

    Attributes
    ----------
    n_planes : int
        Planes.
    memory : float
        Bytes, rough.
    seconds : float
        Time without a GPU, very rough.
    """

    n_planes: int
    memory: float
    seconds: float

    def text(self, speed: float = 1.0) -> str:
        """Return the estimate in words; `speed` is the result of :func:`speed_of`."""
        return (
            f"{counted(self.n_planes, 'plane')}: about {max(self.memory / 1e9, 0.1):.1f}\u00a0GB of memory, "
            f"{in_words(self.seconds * speed)} without a GPU."
        )


def estimate_detection(shapes: Sequence[tuple[int, int]], model: ModelConfig, tile: int) -> DetectionEstimate:
    """Return the estimate of a detection.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Rows and columns of each plane.
    model : ModelConfig
        Parameters of the model.
    tile : int
        Side of the tiles; 0 if it is chosen by the free memory.
    """
    cost = BACKBONES[model.backbone]
    pixels = [rows * cols for rows, cols in shapes]
    needs = (cost.values_per_pixel(), cost.feature_halo(model), cost.flow_halo(model))
    needed = [
        detection_bytes(shape, tile or tile_that_fits(shape, *needs, MOST_OF_PROCESSOR), *needs)
        for shape in set(shapes)
    ]
    memory = max(needed, default=0.0) + max(pixels, default=0) * _MAP_BYTES_PER_PIXEL
    seconds = cost.detection_seconds * sum(pixels) / 1e6 + _comparing(model, sum(pixels), model.memory_size)
    seconds /= max(1.0, (os.cpu_count() or 1) ** 0.7)
    return DetectionEstimate(len(shapes), memory, seconds + _SECONDS_PER_PLANE * len(shapes))


def estimate_training(
    regions: Sequence[NormalRegion], model: ModelConfig, training: TrainingConfig
) -> TrainingEstimate:
    """Return the estimate of a training on these regions.

    Raises
    ------
    ImageError
        If no tile is normal enough.
    ConfigError
        If the tile size does not fit the backbone.
    """
    cost = BACKBONES[model.backbone]
    tile, stride = cost.fixed_size or model.tile, max(cost.strides)
    if tile % stride:
        raise ConfigError(f"the tile size must be a multiple of {stride} pixels, not {tile}")
    unread = [
        NormalRegion(
            replace(region.plane, data=_Unread(tuple(region.plane.data.shape))),
            region.mask,
            region.specimen,
            is_marked_normal=region.is_marked_normal,
        )
        for region in assign_specimens(regions, training.specimen_pattern)
    ]
    split = choose_tiles(unread, tile, stride, training, np.random.default_rng(training.seed))
    chosen, held_out = split.train, split.holdout
    n_channels = regions[0].plane.n_channels
    values = cost.values_of_flow(model, n_channels)
    more = cost.values_per_pixel(n_channels) / cost.values_per_pixel()
    step_seconds = cost.step_seconds * more * model.flow_steps / 4 * (_JOINT_STEP if has_joint_levels(model) else 1)
    pixels = [sum(t.window.height * t.window.width for t in tiles) for tiles in (chosen, held_out)]
    features = 2 * values * (pixels[0] * training.augmentations + pixels[1])
    limit = training.cache_memory * 1.25e9
    rows, cols = (min(tile, max(region.plane.shape[axis] for region in regions)) for axis in (0, 1))
    batch = training.batch_size * rows * cols * values * _BYTES_PER_VALUE * model.flow_steps / 4
    overhead = _SECONDS_PER_STEP * training.steps
    n_checks = training.steps / training.check_every
    augmented = pixels[0] * training.augmentations
    measured = augmented * min(1.0, _MOST_MEASURED / (len(chosen) * training.augmentations))
    work = (
        cost.feature_seconds * more * (augmented + 2 * pixels[1])
        + step_seconds * training.steps * min(training.batch_size * tile * tile, pixels[0] * 1.0)
        + step_seconds * n_checks * pixels[1] / 3
        + step_seconds * (2 * measured if has_joint_levels(model) else 0) / 3
    ) / 1e6 + more * _comparing(model, measured + pixels[1], min(model.memory_size, augmented / JOINT_STRIDE**2))
    specimens, holdout_specimens = ({tile.region.specimen for tile in tiles} for tiles in (chosen, held_out))
    return TrainingEstimate(
        n_planes=len(regions),
        n_tiles=len(chosen),
        n_holdout_tiles=len(held_out),
        n_specimens=len(specimens),
        n_holdout_specimens=len(holdout_specimens),
        is_divided=specimens == holdout_specimens,
        memory=_BYTES_OF_PROGRAM + batch + min(features, limit),
        disk=max(0.0, features - limit),
        seconds=overhead + work / max(1.0, (os.cpu_count() or 1) ** 0.7),
    )
