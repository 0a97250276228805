"""Estimates of a job before it starts: tiles, memory, time. No pixel is read for them."""

from __future__ import annotations

import math
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
from napari_uflow.image.scaled import scaled_regions
from napari_uflow.model.info import BACKBONES, JOINT_STRIDE, has_joint_levels, octaves_of
from napari_uflow.system.memory import MOST_OF_PROCESSOR, detection_bytes, tile_that_fits
from napari_uflow.training.regions import assign_specimens
from napari_uflow.training.tiles import Split, choose_groups, choose_tiles, marked_tiles_of
from napari_uflow.wording import counted

__all__ = ["DetectionEstimate", "TrainingEstimate", "estimate_detection", "estimate_training", "speed_of"]


# Memory of a training per feature value of a batch, and its constant part: from the peak memory with 2 and 8 tiles of
# 256 pixels in a batch (scattering, 4 flow steps), 1.19 and 1.71 GB. An estimate for other backbones.
_BYTES_PER_VALUE = 150
_BYTES_OF_PROGRAM = 1.0e9
# An optimiser step of however few pixels.
_SECONDS_PER_STEP = 0.002
# A pass through the flow without gradients, over a step of the optimiser.
_FORWARD = 1 / 3
# Seconds of one core to compare a position with a vector of the memory, per channel of both of its halves.
_SECONDS_PER_COMPARISON = 2.9e-11
# Tiles that the scale of the evidence is fitted to, and held-out specimens from which these are measured too, as in
# `training.evidence`; a test compares both.
_MOST_MEASURED, _FEWEST_MEASURED = 200, 3
# Planted defects, as in `training.planted` and `training.train`; a test compares them.
_PLANTED_SIDE, _PLANTED_MARGIN, _PLANTED_PART = 256, 32, 0.4
_MOST_SOURCES, _FEWEST_SOURCES, _MOST_DEFECTS, _FEWEST_DEFECTS, _PIXELS_PER_DEFECT = 24, 4, 84, 12, 16_000
# Part of an image's positions that belong to its planted defects.
_PART_OF_DEFECTS = 0.15
# The choice of a magnification, as in `training.magnification`; a test compares them.
_MAGNIFICATIONS, _MOST_TRIED, _MOST_PIXELS_TRIED = (1.0, 2.0, 0.5), 40, 5e6
# Three maps; disk-backed if they are large, but resident while they are computed.
_MAP_BYTES_PER_PIXEL = 12
_SECONDS_PER_PLANE = 0.05
# Loading the backbone, and the functions that test regions.
_SECONDS_TO_PREPARE = 1.0
# Start-up time that does not grow with the image, roughly; shorter runs do not measure the machine.
_SECONDS_TO_BEGIN = 2.0
# `specimens_needed(1.0)`, and the number of images of which as many are held out; a test compares both. The function
# itself loads numba, which blocks the window for a second.
_SPECIMENS_NEEDED, _IMAGES_NEEDED = 3, 8
# Steps of the networks without a group of specimens, over those of the training, which are as many at most.
_IN_TURN = 0.7


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
    n_counted : int
        Specimens that false alarms are counted on: those held out, at once or in turn.
    is_in_turn : bool
        True if every specimen is held out in turn where there are enough of them.
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
    n_counted: int
    is_in_turn: bool
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
        keeps = f"{trains}, keeps {self.n_holdout_specimens} back ({holdout_tiles})"
        if self.n_counted > self.n_holdout_specimens:
            return f"{keeps}; then keeps each back in turn, to count false alarms on all {self.n_counted}"
        return f"{keeps} to count false alarms"

    @property
    def _n_needed(self) -> int:
        """Images needed for a guarantee: without any that are held out in turn, as many as leave enough held out."""
        return _SPECIMENS_NEEDED if self.is_in_turn else _IMAGES_NEEDED

    def advice(self) -> str:
        """Return a remedy for too few held-out specimens; "" if a number of false alarms can be guaranteed."""
        if self.n_counted >= _SPECIMENS_NEEDED:
            return ""
        is_one = self.is_divided or (not self.n_holdout_tiles and self.n_specimens == 1)
        separate = " If they show different specimens, set this in 'Separate images' or 'Stack planes'."
        separate = separate if is_one and self.n_planes > 1 else ""
        if not self.n_holdout_tiles:
            return f"Without held-out tiles false alarms are underestimated; add images of other specimens.{separate}"
        return (
            f"False alarms are only estimated; add normal images ({self._n_needed} or more) for a guaranteed number."
            f"{separate}"
        )


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
    cost, z = _Costs(model), model.magnification or 1.0
    seen = [(math.ceil(rows * z), math.ceil(cols * z)) for rows, cols in shapes]
    pixels = [rows * cols for rows, cols in seen]
    info = cost.info
    needs = (info.values_per_pixel(), info.feature_halo(model), info.flow_halo(model))
    needed = [
        detection_bytes(shape, tile or tile_that_fits(shape, *needs, MOST_OF_PROCESSOR), *needs) for shape in set(seen)
    ]
    memory = max(needed, default=0.0) + max((rows * cols for rows, cols in shapes), default=0) * _MAP_BYTES_PER_PIXEL
    seconds = sum(cost.detection(sum(pixels) / 4**octave, model.memory_size) for octave in range(max(1, model.octaves)))
    return DetectionEstimate(len(shapes), memory, seconds / _speedup() + _SECONDS_PER_PLANE * len(shapes))


def _speedup() -> float:
    """Return how many times as fast as one core the processor is."""
    return max(1.0, (os.cpu_count() or 1) ** 0.7)


class _Costs:
    """Seconds of one core for the parts of a job."""

    def __init__(self, model: ModelConfig, n_channels: int = 1):
        self.info = BACKBONES[model.backbone]
        self.is_joint = has_joint_levels(model)
        more = self.info.values_per_pixel(n_channels) / self.info.values_per_pixel()
        step = self.info.joint_step_seconds if self.is_joint else self.info.step_seconds
        self._feature_seconds = self.info.feature_seconds * more
        self._step_seconds = step * more * model.flow_steps / 4
        self._has_memory = self.is_joint and model.evidence != "likelihood"
        self._channels = 2 * sum(self.info.channels) * more

    def features(self, n_pixels: float) -> float:
        """Return the time of the backbone for tiles of so many pixels, read with their margins."""
        return self._feature_seconds * n_pixels / 1e6

    def steps(self, n_pixels: float) -> float:
        """Return the time of optimiser steps that see so many pixels in all."""
        return self._step_seconds * n_pixels / 1e6

    def forward(self, n_pixels: float) -> float:
        """Return the time of the flow for so many pixels, without gradients."""
        return _FORWARD * self.steps(n_pixels)

    def comparing(self, n_pixels: float, n_vectors: float) -> float:
        """Return the time to compare the positions of so many pixels with a memory."""
        if not self._has_memory:
            return 0.0
        return _SECONDS_PER_COMPARISON * self._channels * n_vectors * n_pixels / JOINT_STRIDE**2

    def detection(self, n_pixels: float, n_vectors: float) -> float:
        """Return the time of a detection in so many pixels."""
        if not self.is_joint:
            return self.info.detection_seconds * n_pixels / 1e6
        return self.features(n_pixels) + self.forward(n_pixels) + self.comparing(n_pixels, n_vectors)


@dataclass(frozen=True)
class _Planted:
    """Images that defects are planted into, and copies of them with defects.

    Attributes
    ----------
    n_sources, n_copies : float
        Their numbers; 0 if there are too few for planted defects.
    pixels : float
        Pixels of one as the network sees it, at the magnification of the model.
    read : float
        The same with its margins.
    """

    n_sources: float
    n_copies: float
    pixels: float
    read: float

    @classmethod
    def of(cls, regions: Sequence[NormalRegion], side: float, n_pixels: float, magnification: float) -> _Planted:
        """Return the images for parts of this side, and for the largest number of pixels, at magnification 1."""
        shape = tuple(min(side, max(region.plane.shape[axis] for region in regions)) for axis in (0, 1))
        pixels, costs = ((shape[0] + 2 * m) * (shape[1] + 2 * m) for m in (0, _PLANTED_MARGIN))
        n_defects = max(1, round(pixels / _PIXELS_PER_DEFECT))
        n_sources = min(_MOST_SOURCES, n_pixels / 2 // costs)
        n_copies = min(-(-_MOST_DEFECTS // n_defects), n_pixels // costs - n_sources)
        if n_sources < _FEWEST_SOURCES or n_copies * n_defects < _FEWEST_DEFECTS:
            n_sources = n_copies = 0
        sides = [math.ceil(side * magnification) + 2 * _PLANTED_MARGIN for side in shape]
        return cls(n_sources, n_copies, pixels * magnification**2, sides[0] * sides[1])

    @classmethod
    def of_training(
        cls, split: Split, regions: Sequence[NormalRegion], model: ModelConfig, training: TrainingConfig
    ) -> _Planted:
        """Return the images of a training: parts of held-out images, or of tiles if few specimens are held out."""
        z = model.magnification or 1.0
        n_tiles = len(split.train) * training.augmentations + len(split.holdout)
        n_pixels = _PLANTED_PART * n_tiles * (model.tile + 2 * _PLANTED_MARGIN) ** 2 / max(1.0, z) ** 2
        is_whole = len(split.holdout_specimens) >= _FEWEST_MEASURED
        side = _PLANTED_SIDE if is_whole else min(_PLANTED_SIDE, model.tile / z)
        return cls.of(regions, side, n_pixels, z)

    @property
    def kept(self) -> float:
        """Pixels of the positions that are kept: of normal images all, of copies those of the defects."""
        return (self.n_sources + _PART_OF_DEFECTS * self.n_copies) * self.pixels

    def features(self, cost: _Costs, n_vectors: float) -> float:
        """Return the seconds of one core to compute the features and their distances from the memory."""
        of_tile = (_PLANTED_SIDE / (_PLANTED_SIDE + 2 * _PLANTED_MARGIN)) ** 2  # margins are part of a tile's cost
        n_read = (self.n_sources + self.n_copies) * self.read
        return cost.features(of_tile * n_read) + cost.comparing(self.kept, n_vectors) + cost.forward(self.kept)


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
    info = BACKBONES[model.backbone]
    tile, stride = info.fixed_size or model.tile, max(info.strides)
    if tile % stride:
        raise ConfigError(f"the tile size must be a multiple of {stride} pixels, not {tile}")
    z = model.magnification or 1.0
    regions = assign_specimens(regions, training.specimen_pattern)
    seen = _seen(regions, z)
    split = choose_tiles(seen, tile, stride, training, np.random.default_rng(training.seed))
    n_channels = regions[0].plane.n_channels
    values = info.values_of_flow(model, n_channels)
    pixels, held_pixels = _pixels(split)
    halves = 2 if has_joint_levels(model) else 1  # sharp and wide features, but not of augmented tiles
    features = 2 * values * (pixels * (training.augmentations - 1 + halves) + halves * held_pixels)
    limit = training.cache_memory * 1.25e9
    rows, cols = (min(tile, math.ceil(z * max(region.plane.shape[axis] for region in regions))) for axis in (0, 1))
    batch = training.batch_size * rows * cols * values * _BYTES_PER_VALUE * model.flow_steps / 4
    cost = _Costs(model, n_channels)
    n_octaves = octaves_of(model, [min(region.plane.shape) for region in seen])
    planted = _Planted.of_training(split, regions, model, training)
    groups = choose_groups(split, training)
    work = _training_seconds(cost, split, model, training, n_octaves, planted, in_turn=bool(groups))
    if not model.magnification and cost.is_joint:
        work += _choice_seconds(cost, split, regions, model)
    tiles = (split.train, split.holdout)
    specimens, holdout_specimens = ({tile.region.specimen for tile in of_part} for of_part in tiles)
    return TrainingEstimate(
        n_planes=len(regions),
        n_tiles=len(split.train),
        n_holdout_tiles=len(split.holdout),
        n_specimens=len(specimens),
        n_holdout_specimens=len(holdout_specimens),
        is_in_turn=training.guarantee != "split",
        n_counted=sum(map(len, groups)) or len(holdout_specimens),
        is_divided=specimens == holdout_specimens,
        memory=_BYTES_OF_PROGRAM + batch + min(features, limit),
        disk=max(0.0, features - limit),
        seconds=_SECONDS_PER_STEP * training.steps + work / _speedup() + _SECONDS_TO_PREPARE,
    )


def _training_seconds(
    cost: _Costs,
    split: Split,
    model: ModelConfig,
    training: TrainingConfig,
    n_octaves: int,
    planted: _Planted,
    *,
    in_turn: bool,
) -> float:
    """Return the seconds of one core for a training, without the choice of a magnification.

    With every specimen held out in turn there are more steps, and all images are scored.
    """
    n_tiles, n_held = len(split.train), len(split.holdout)
    pixels, held = _pixels(split)
    n_vectors = min(model.memory_size, (pixels + (0 if split.is_divided_by_place else held)) / JOINT_STRIDE**2)
    seconds = cost.features(pixels * (training.augmentations - 1))
    measured = pixels * min(1.0, _MOST_MEASURED / n_tiles)
    if len(split.holdout_specimens) >= _FEWEST_MEASURED:
        measured += held * min(1.0, _MOST_MEASURED / n_held)
    for octave in range(n_octaves):
        share = 1 / 4**octave
        scored = pixels + held if in_turn else held or pixels
        seconds += cost.features(share * (pixels + held)) + cost.detection(share * scored, n_vectors)
        if cost.is_joint:
            seconds += cost.comparing(share * measured, n_vectors) + cost.forward(share * measured)
    checked = held
    if cost.is_joint:
        seconds += planted.features(cost, n_vectors)
        checked += planted.kept
    if training.steps:
        n_together = min(training.batch_size, n_tiles * training.augmentations)
        seconds += cost.steps((1 + _IN_TURN * in_turn) * training.steps * n_together * pixels / n_tiles)
        seconds += cost.forward(checked) * (training.steps / training.check_every + 1)
        seconds += cost.forward(measured) if cost.is_joint else 0.0
    return seconds


def _pixels(split: Split) -> tuple[float, float]:
    """Return the pixels trained on, and those held out."""
    train, held_out = (
        float(sum(tile.window.height * tile.window.width for tile in tiles)) for tiles in (split.train, split.holdout)
    )
    return train, held_out


def _choice_seconds(cost: _Costs, split: Split, regions: Sequence[NormalRegion], model: ModelConfig) -> float:
    """Return the seconds of one core to choose a magnification."""
    seconds = 0.0
    for z in _MAGNIFICATIONS:
        if z < 1 and min(min(region.plane.shape) for region in regions) < _PLANTED_SIDE:
            continue
        pixels = min(len(split.train) * z**2, _MOST_TRIED) * model.tile**2
        n_vectors = min(model.memory_size, pixels / JOINT_STRIDE**2)
        seconds += cost.features(pixels) + cost.comparing(pixels, n_vectors) + cost.forward(pixels)
        seconds += _Planted.of(regions, _PLANTED_SIDE, _MOST_PIXELS_TRIED, z).features(cost, n_vectors)
    return seconds


def _seen(regions: Sequence[NormalRegion], magnification: float) -> list[NormalRegion]:
    """Return regions at a magnification, whose pixels must not be read."""
    scaled = scaled_regions(regions, magnification)
    unread: dict[int, NormalRegion] = {}
    for region in scaled:
        if id(region) not in unread:
            plane = replace(region.plane, data=_Unread(tuple(region.plane.data.shape)))
            unread[id(region)] = NormalRegion(
                plane, region.mask, region.specimen, is_marked_normal=region.is_marked_normal
            )
    return [unread[id(region)] for region in scaled]


def count_marked_tiles(regions: Sequence[NormalRegion], model: ModelConfig) -> int:
    """Return the number of tiles of regions marked normal."""
    info = BACKBONES[model.backbone]
    seen = _seen(regions, model.magnification or 1.0)
    return len(marked_tiles_of(seen, info.fixed_size or model.tile, max(info.strides)))
