"""The coarser octaves of a model: a Gaussian and a memory of normal positions at half the size, a quarter and so on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.region import NormalRegion, sample_windows
from napari_uflow.image.scaled import scaled_regions
from napari_uflow.model.info import at_size, octaves_of, sizes_text
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Message, Progress, Steps, or_stop
from napari_uflow.training.cache import FeatureCaches
from napari_uflow.training.evidence import evidence_steps, some_of
from napari_uflow.training.features import fill_cache
from napari_uflow.training.folds import Fold, scale_folds_steps
from napari_uflow.training.normalise import normalise_steps
from napari_uflow.training.tiles import LEAST_MARKED, Split, TrainingTile

__all__ = ["coarser_steps", "octaves_for"]

# Normal positions per channel, at least: a Gaussian of fewer does not fit new images.
_LEAST_PER_CHANNEL = 10
# Part of the cache of the finest octave, beside which that of another one is filled.
_CACHE_PART = 0.25
# Stream of random numbers of the first coarser octave.
_RANDOM = 10


def octaves_for(regions: Sequence[NormalRegion], model: ModelConfig) -> int:
    """Return the number of octaves for training images: as many as leave half of them large enough in the coarsest.

    What is large in a large image, as one looks at it, is hardly seen by a network that sees 100 pixels at a time.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Normal regions, as the network sees them in the finest octave.
    model : ModelConfig
        Its `octaves` if they are given; 1 for a pyramid.
    """
    return octaves_of(model, [min(region.plane.shape) for region in regions])


def coarser_steps(
    network: UFlow,
    working: Sequence[NormalRegion],
    split: Split,
    training: TrainingConfig,
    intensity: IntensityRange,
    *,
    is_new: bool,
    folds: Sequence[Fold] = (),
    depth: int = 1,
) -> Steps[None]:
    """Fit the coarser octaves of a network, and of those of its folds; ones of too few normal positions are left out.

    Those of a resumed model stay as they are if there are too few positions now.

    Parameters
    ----------
    network : UFlow
        Its coarser octaves are fitted: normalisation, memory and scale. Their flows are not trained.
    working : sequence of NormalRegion
        Regions as `network` sees them.
    split : Split
        Its tiles; places and specimens held out are held out in all octaves.
    training : TrainingConfig
        Parameters of the training.
    intensity : IntensityRange
        Brightness range of the model.
    is_new : bool
        The normalisation is fitted, too; it stays that of a resumed model.
    folds : sequence of Fold
        Folds of the training; those that are new get the normalisations of their coarser octaves.
    depth : int
        Halvings of the size.
    """
    coarser = network.coarser
    if coarser is None:
        return
    regions = scaled_regions(working, 0.5)
    # Of its own: the flow of the finest octave is trained alike whatever the octaves.
    rng = np.random.default_rng((training.seed, _RANDOM + depth))
    half = yield from _half_steps(coarser, working, regions, split, training, rng)
    phase = at_size("Computing features", depth)
    with FeatureCaches.open(_CACHE_PART * training.cache_memory * 1e9, coarser.device) as caches:
        yield from fill_cache(caches.train, coarser, half.train, intensity, 1, phase)
        yield from fill_cache(caches.holdout, coarser, half.holdout, intensity, 1, phase)
        n_positions = sum(int(tile.is_normal[0].sum()) for tile in caches.train)
        can_remember = half.is_divided_by_place or len(half.specimens | half.holdout_specimens) > 1
        if n_positions < _LEAST_PER_CHANNEL * coarser.channels[0] or not can_remember:
            if is_new:
                network.set_octaves(1)
                text = at_size("There are too few normal images to look at them", depth)
                yield from or_stop(Message(f"{text}, too"))
            return
        if is_new:
            yield from normalise_steps(coarser, caches)
        yield from evidence_steps(coarser, caches, rng, remembers_held_out=not half.is_divided_by_place)
        for fold in folds:
            yield from fold.normalise_steps(coarser, caches, depth)
        yield from scale_folds_steps(coarser, caches, folds, rng, depth)
    yield from coarser_steps(coarser, regions, half, training, intensity, is_new=is_new, folds=folds, depth=depth + 1)
    network.config = network.config.replace(octaves=1 + coarser.config.octaves)
    if depth == 1:
        yield from or_stop(Message(f"Images are looked at in {sizes_text(network.config.octaves)} size"))


def _half_steps(
    coarser: UFlow,
    working: Sequence[NormalRegion],
    regions: Sequence[NormalRegion],
    split: Split,
    training: TrainingConfig,
    rng: np.random.Generator,
) -> Steps[Split]:
    """Return the tiles of the regions at half the size, some of them if there are many."""
    train: list[TrainingTile] = []
    holdout: list[TrainingTile] = []
    marked = {id(tile.region) for tile in (*split.train, *split.holdout) if tile.region.is_marked_normal}
    by_place = split.is_divided_by_place
    pairs = {id(region): (fine, region) for fine, region in zip(working, regions, strict=True)}
    for done, (fine, region) in enumerate(pairs.values()):
        yield from or_stop(Progress("Choosing tiles of smaller images", done, len(pairs)))
        if region.is_marked_normal and id(fine) not in marked:
            continue
        least = LEAST_MARKED if region.is_marked_normal else training.min_normal
        for window in sample_windows(region, coarser.tile, align=coarser.align, min_normal=least):
            is_held_out = region.specimen in split.holdout_specimens
            if is_held_out and by_place:
                full = Window(2 * window.row, 2 * window.col, 2 * window.height, 2 * window.width)
                is_held_out = not region.is_marked_normal and any(
                    t.region.plane is fine.plane and t.window.overlaps(full) for t in split.holdout
                )
            if is_held_out:
                holdout.append(TrainingTile(region, window))
            elif region.is_marked_normal or region.specimen in split.specimens:
                train.append(TrainingTile(region, window))
    train = some_of(train, training.max_tiles, rng)
    if not by_place:  # all of the places held out must be known to the next octave
        holdout = some_of(holdout, training.max_tiles, rng)
    return Split(tuple(train), tuple(holdout))
