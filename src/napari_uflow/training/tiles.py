"""Training tiles: windows of normal regions, divided into those trained on and those held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from napari_uflow.config import TrainingConfig
from napari_uflow.errors import ImageError
from napari_uflow.image.condition import conditions_of
from napari_uflow.image.grid import Window
from napari_uflow.image.region import NormalRegion, sample_windows
from napari_uflow.image.specimen import hold_out_specimens
from napari_uflow.model.record import TrainingRecord

__all__ = ["LEAST_MARKED", "Split", "TrainingTile", "choose_groups", "choose_tiles", "marked_tiles_of", "regions_of"]

LEAST_MARKED = 0.01
"""Fraction of normal pixels required of the tile around a region marked normal, which is small."""

# Largest part of the tiles trained on that comes from regions marked normal.
_LARGEST_MARKED = 0.5
# A fifth of so many is enough to guarantee 0.1 false alarms per image.
_MANY_SPECIMENS = 50
# Fewer cannot guarantee anything, see :mod:`napari_uflow.nfa.conformal`.
_FEWEST_SPECIMENS = 3
_MOST_GROUPS = 5
# Stream of random numbers of the groups.
_RANDOM = 20


@dataclass(frozen=True, slots=True)
class TrainingTile:
    """A window of a normal region.

    Attributes
    ----------
    region : NormalRegion
        The region.
    window : Window
        Part of its image.
    given : NormalRegion or None
        The region as it was given if areas marked normal were taken out of it.
    """

    region: NormalRegion
    window: Window
    given: NormalRegion | None = None

    @property
    def region_given(self) -> NormalRegion:
        """The region as it was given, one of those of the training."""
        return self.given or self.region


@dataclass(frozen=True, slots=True)
class Split:
    """The tiles of a training.

    Attributes
    ----------
    train, holdout : tuple of TrainingTile
        Tiles trained on, and tiles held out; the latter are none if nothing can be held out. Regions marked normal in
        specimens held out are held out, too.
    """

    train: tuple[TrainingTile, ...]
    holdout: tuple[TrainingTile, ...] = ()

    @property
    def specimens(self) -> frozenset[str]:
        """Specimens trained on, without those of regions marked normal."""
        return frozenset(tile.region.specimen for tile in self.train if not tile.region.is_marked_normal)

    @property
    def holdout_specimens(self) -> frozenset[str]:
        """Specimens held out."""
        return frozenset(tile.region.specimen for tile in self.holdout)

    @property
    def is_divided_by_place(self) -> bool:
        """Some specimen is both trained on and held out."""
        return not self.specimens.isdisjoint(self.holdout_specimens)

    @property
    def for_calibration(self) -> tuple[TrainingTile, ...]:
        """The tiles held out, or else those trained on; regions marked normal lie in these."""
        return tuple(t for t in self.holdout if not t.region.is_marked_normal) or self.train

    @property
    def of_images(self) -> tuple[TrainingTile, ...]:
        """All tiles but those of regions marked normal, which lie in these."""
        return tuple(t for t in (*self.holdout, *self.train) if not t.region.is_marked_normal)


def regions_of(tiles: Sequence[TrainingTile]) -> list[NormalRegion]:
    """Return the regions of tiles, each once."""
    return list({id(tile.region): tile.region for tile in tiles}.values())


def marked_tiles_of(regions: Sequence[NormalRegion], tile: int, align: int) -> list[TrainingTile]:
    """Return the tiles of regions marked normal, which may be small.

    Parameters
    ----------
    regions, tile, align
        As for :func:`choose_tiles`; regions that are not marked are left out.
    """
    return _tiles_of([region for region in regions if region.is_marked_normal], tile, align, LEAST_MARKED)


def choose_tiles(
    regions: Sequence[NormalRegion],
    tile: int,
    align: int,
    training: TrainingConfig,
    rng: np.random.Generator,
    before: TrainingRecord | None = None,
) -> Split:
    """Choose the tiles to train on and the tiles to hold out.

    Whole specimens are held out. Of a single specimen the last tiles of each image are held out, and tiles that overlap
    with them are not used.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Normal regions. Those marked normal are trained on, unless their specimen is held out. Beside others, their
        tiles are at most half of the largest number; if there are more, they are drawn at random.
    tile, align : int
        Side of a tile, and the divisor of its position, in pixels.
    training : TrainingConfig
        Number of tiles, fraction held out, and fraction of a tile that must be normal.
    rng : Generator
        Draws tiles if there are too many.
    before : TrainingRecord, optional
        Record of the model that a training is resumed from: nothing that it was trained on is held out.

    Raises
    ------
    ImageError
        If no tile has enough normal pixels.
    """
    marked = [region for region in regions if region.is_marked_normal]
    others = [region for region in regions if not region.is_marked_normal]
    tiles = _tiles_of(others, tile, align, training.min_normal)
    marked_tiles = marked_tiles_of(marked, tile, align)
    if not tiles and not marked_tiles:
        raise ImageError(
            f"no tile of {tile} x {tile} pixels has at least {training.min_normal:.0%} normal pixels: "
            f"mark larger normal areas, or reduce the minimum normal fraction or the tile size"
        )
    held_out = _held_out_specimens(regions_of(tiles), training, before)
    train = [t for t in tiles if t.region.specimen not in held_out]
    # A region given several times, to weigh more, is held out once.
    holdout = list(dict.fromkeys(t for t in tiles if t.region.specimen in held_out))
    marked_holdout = list(dict.fromkeys(t for t in marked_tiles if t.region.specimen in held_out))
    marked_train = [t for t in marked_tiles if t.region.specimen not in held_out]
    if not train and not marked_train:  # no tile of the other specimens is normal enough
        train, holdout, marked_train, marked_holdout = tiles, [], marked_tiles, []
    may_divide = before is None or set(before.specimens) == set(before.holdout_specimens)
    if not holdout and training.holdout > 0 and may_divide:
        train, holdout = _divided_by_place(tiles, training.holdout)
        holdout, marked_train, marked_holdout = _without(holdout, marked, training.min_normal), marked_tiles, []
    if train:
        marked_train = _drawn(marked_train, max(1, int(_LARGEST_MARKED * training.max_tiles)), rng)
    train = _drawn(train, max(0, training.max_tiles - len(marked_train)), rng) + marked_train
    most = max(1, math.ceil(training.max_tiles * training.holdout))
    marked_holdout = _drawn(marked_holdout, most, rng)
    return Split(tuple(train), (*_drawn(holdout, most, rng), *marked_holdout))


def choose_groups(split: Split, training: TrainingConfig, before: TrainingRecord | None = None) -> list[frozenset[str]]:
    """Choose the groups of specimens to hold out in turn; none if only those of the split are held out.

    Parameters
    ----------
    split : Split
        Tiles of the training. The specimens that it holds out are the first group, the others are in four groups: of
        few specimens a network should miss as few as possible.
    training : TrainingConfig
        Its guarantee and seed.
    before : TrainingRecord, optional
        Record of the model whose groups, and their networks, are kept. New specimens join them. A specimen that an
        earlier training knew and the last one did not is in no group: each of the networks may have learned from it.
    """
    names = split.specimens | split.holdout_specimens
    is_wanted = training.guarantee == "cross" or (training.guarantee == "auto" and len(names) < _MANY_SPECIMENS)
    is_possible = split.holdout and split.specimens and not split.is_divided_by_place
    if not (is_wanted and is_possible and len(names) >= _FEWEST_SPECIMENS):
        return []
    groups = [set(split.specimens.intersection(fold)) for fold in (before.folds[1:] if before else ())]
    if not groups:
        groups = [set() for _ in range(min(_MOST_GROUPS - 1, len(split.specimens)))]
        before = None
    seen = before.all_specimens.union(before.earlier_specimens) if before else ()
    left = sorted(split.specimens.difference(*groups, seen))
    drawn = [left[i] for i in np.random.default_rng((training.seed, _RANDOM)).permutation(len(left))]
    # Specimens of one condition in different groups: the network of each group should know it.
    for name in sorted(drawn, key=_conditions_by_specimen(split, training).__getitem__):
        min(groups, key=len).add(name)
    return [split.holdout_specimens, *map(frozenset, groups)]


def _conditions_by_specimen(split: Split, training: TrainingConfig) -> dict[str, str]:
    regions = [region for region in regions_of(split.train) if not region.is_marked_normal]
    conditions = conditions_of([region.plane for region in regions], training.condition_pattern)
    return {region.specimen: of or "" for region, of in zip(regions, conditions, strict=True)}


def _held_out_specimens(
    regions: Sequence[NormalRegion], training: TrainingConfig, before: TrainingRecord | None
) -> frozenset[str]:
    """Choose the specimens to hold out, of each condition, none of which the model was trained on before.

    Those held out before stay held out; new ones join them until they are as many as for a new model.
    """
    names = {region.specimen for region in regions}
    conditions = conditions_of([region.plane for region in regions], training.condition_pattern)
    by_condition: dict[str | None, set[str]] = {}
    for region, condition in zip(regions, conditions, strict=True):
        by_condition.setdefault(condition, set()).add(region.specimen)
    chosen = frozenset[str]().union(
        *(hold_out_specimens(of, training.holdout, training.seed) for of in by_condition.values())
    )
    if not chosen or chosen == names:  # each condition has one specimen, or specimens have several conditions
        chosen = hold_out_specimens(names, training.holdout, training.seed)
    if before is None or not chosen:
        return chosen
    trained, held_out = {*before.specimens, *before.earlier_specimens}, set(before.holdout_specimens)
    kept = frozenset(held_out.intersection(names) - trained)
    new = sorted(set(names) - trained - held_out)
    n_new = max(0, min(len(chosen) - len(kept), len(new) - (not trained.intersection(names))))
    order = np.random.default_rng(training.seed).permutation(len(new))
    return kept | {new[i] for i in order[:n_new]}


def _drawn(tiles: list[TrainingTile], most: int, rng: np.random.Generator) -> list[TrainingTile]:
    """Draw `most` tiles at random, in their order, if there are more."""
    if len(tiles) <= most:
        return tiles
    return [tiles[i] for i in np.sort(rng.choice(len(tiles), most, replace=False))]


def _tiles_of(regions: Sequence[NormalRegion], tile: int, align: int, min_normal: float) -> list[TrainingTile]:
    return [
        TrainingTile(region, window)
        for region in regions
        for window in sample_windows(region, tile, align=align, min_normal=min_normal)
    ]


def _without(tiles: Sequence[TrainingTile], marked: Sequence[NormalRegion], min_normal: float) -> list[TrainingTile]:
    """Return tiles without the regions marked normal in their images; drop those with too little left."""
    if not marked:
        return list(tiles)
    rests = {id(region): region.without(marked) for region in regions_of(tiles)}
    kept = []
    for tile in tiles:
        rest = rests[id(tile.region)]
        inside = tile.window.clipped(rest.plane.shape)
        if rest is tile.region or rest.normal(inside).mean() >= min_normal:
            kept.append(tile if rest is tile.region else TrainingTile(rest, tile.window, tile.region))
    return kept


def _divided_by_place(tiles: Sequence[TrainingTile], fraction: float) -> tuple[list[TrainingTile], list[TrainingTile]]:
    """Hold out the last tiles of each image, along its longer side; drop tiles that overlap with one of them."""
    by_image: dict[int, list[TrainingTile]] = {}
    for tile in tiles:
        by_image.setdefault(id(tile.region.plane), []).append(tile)
    kept: list[TrainingTile] = []
    held: list[TrainingTile] = []
    for group in by_image.values():
        rows, cols = [tile.window.row for tile in group], [tile.window.col for tile in group]
        is_wide = max(cols) - min(cols) > max(rows) - min(rows)
        group.sort(key=attrgetter("window.col", "window.row") if is_wide else attrgetter("window"))
        n_held = round(len(group) * fraction) if len(group) > 2 else 0
        last = group[len(group) - n_held :]
        held += last
        first = group[: len(group) - n_held]
        kept += [tile for tile in first if not any(tile.window.overlaps(other.window) for other in last)]
    if not kept or not held:
        return list(tiles), []
    return kept, held
