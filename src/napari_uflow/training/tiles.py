"""Which tiles of the normal regions a model is trained on, and which are held out."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Self

import numpy as np

from napari_uflow.config import TrainingConfig
from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window
from napari_uflow.image.region import NormalRegion, hold_out_specimens, sample_windows
from napari_uflow.model.record import TrainingRecord

# A region that was called normal is small against the tile around it.
_LEAST_MARKED = 0.01

__all__ = ["SeenSpecimens", "TrainingTile", "choose_tiles", "regions_of"]


@dataclass(frozen=True, slots=True)
class TrainingTile:
    """A window of a normal region."""

    region: NormalRegion
    window: Window


@dataclass(frozen=True, slots=True)
class SeenSpecimens:
    """The fields that a model has seen whose training goes on.

    Attributes
    ----------
    trained, held_out : frozenset of str
        Fields it was trained on, in any run, and those that were held out. A single field is in both.
    """

    trained: frozenset[str]
    held_out: frozenset[str]

    @classmethod
    def of(cls, record: TrainingRecord) -> Self:
        """Read them from a model's record."""
        return cls(frozenset(record.specimens), frozenset(record.holdout_specimens))

    def hold_out(self, names: Collection[str], training: TrainingConfig) -> frozenset[str]:
        """Choose what to hold out among fields: never one that the model was trained on.

        Fields that were held out stay so; new ones join them until they are as many as of a new model.
        """
        chosen = hold_out_specimens(names, training.holdout, training.seed)
        if not chosen:
            return chosen
        kept = self.held_out.intersection(names) - self.trained
        new = sorted(set(names) - self.trained - self.held_out)
        n_left = max(0, min(len(chosen) - len(kept), len(new) - (not self.trained.intersection(names))))
        order = np.random.default_rng(training.seed).permutation(len(new))
        return kept | {new[i] for i in order[:n_left]}


def regions_of(tiles: Sequence[TrainingTile]) -> list[NormalRegion]:
    """Return the regions that tiles come from, each once."""
    return list({id(tile.region): tile.region for tile in tiles}.values())


def choose_tiles(
    regions: Sequence[NormalRegion],
    tile: int,
    align: int,
    training: TrainingConfig,
    rng: np.random.Generator,
    before: SeenSpecimens | None = None,
) -> tuple[list[TrainingTile], list[TrainingTile]]:
    """Choose the tiles to train on and the tiles that are held out.

    Whole fields are held out. Where there is only one field, the last tiles of each of its images are, and what
    overlaps with them is not used.

    Parameters
    ----------
    regions : sequence of NormalRegion
        What is normal.
    tile, align : int
        Side of a tile and what its place must be a multiple of, in pixels.
    training : TrainingConfig
        How many tiles, how much of them held out, and how much of a tile must be normal.
    rng : Generator
        Draws tiles where there are too many.
    before : SeenSpecimens, optional
        What a model has seen whose training goes on: nothing of that is held out that it was trained on.

    Returns
    -------
    train_tiles, holdout_tiles : list of TrainingTile
        The second one is empty where nothing can be held out.

    Raises
    ------
    ImageError
        If no tile is normal enough.
    """
    marked = [region for region in regions if region.is_marked_normal]
    others = [region for region in regions if not region.is_marked_normal]
    names = [region.specimen for region in others]
    if before is None:
        held_out = hold_out_specimens(names, training.holdout, training.seed) if names else frozenset()
    else:
        held_out = before.hold_out(set(names), training)
    tiles = _tiles_of(others, tile, align, training)
    marked_tiles = _tiles_of(marked, tile, align, training.replace(min_normal=_LEAST_MARKED))
    if not tiles and not marked_tiles:
        raise ImageError(
            f"no tile of {tile} x {tile} pixels has at least {training.min_normal:.0%} normal pixels: "
            f"mark more as normal, or lower min_normal or the tile size"
        )
    train_tiles = [t for t in tiles if t.region.specimen not in held_out]
    # A region that was given several times to weigh more is held out once.
    holdout_tiles = list(dict.fromkeys(t for t in tiles if t.region.specimen in held_out))
    if not train_tiles and not marked_tiles:  # the fields left have no tile that is normal enough
        train_tiles, holdout_tiles = tiles, []
    if not holdout_tiles and training.holdout > 0 and (before is None or before.trained == before.held_out):
        train_tiles, holdout_tiles = _split_by_place(tiles, training.holdout)
    # What was taught is trained on and counted nowhere, not even where its image is held out.
    holdout_tiles = _without(holdout_tiles, marked, training.min_normal)
    most = max(0 if marked_tiles else 1, training.max_tiles - len(marked_tiles))
    if len(train_tiles) > most:
        chosen = np.sort(rng.choice(len(train_tiles), most, replace=False))
        train_tiles = [train_tiles[i] for i in chosen]
    train_tiles += marked_tiles
    most = max(1, math.ceil(training.max_tiles * training.holdout))
    if len(holdout_tiles) > most:
        chosen = np.sort(rng.choice(len(holdout_tiles), most, replace=False))
        holdout_tiles = [holdout_tiles[i] for i in chosen]
    return train_tiles, holdout_tiles


def _tiles_of(regions: Sequence[NormalRegion], tile: int, align: int, training: TrainingConfig) -> list[TrainingTile]:
    return [
        TrainingTile(region, window)
        for region in regions
        for window in sample_windows(region, tile, align=align, min_normal=training.min_normal)
    ]


def _without(tiles: Sequence[TrainingTile], marked: Sequence[NormalRegion], min_normal: float) -> list[TrainingTile]:
    """Return tiles without what was taught in their images; those of which too little is left are dropped."""
    if not marked:
        return list(tiles)
    rests = {id(region): region.without(marked) for region in regions_of(tiles)}
    kept = []
    for tile in tiles:
        rest = rests[id(tile.region)]
        inside = tile.window.clipped(rest.plane.shape)
        if rest is tile.region or rest.normal(inside).mean() >= min_normal:
            kept.append(TrainingTile(rest, tile.window))
    return kept


def _split_by_place(tiles: Sequence[TrainingTile], fraction: float) -> tuple[list[TrainingTile], list[TrainingTile]]:
    """Hold out the last tiles of each image, along its longer side; what overlaps with one of them is not used."""
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
        kept += [tile for tile in group[: len(group) - n_held] if not any(_overlap(tile, other) for other in last)]
    if not kept or not held:
        return list(tiles), []
    return kept, held


def _overlap(a: TrainingTile, b: TrainingTile) -> bool:
    return (
        a.window.row < b.window.stop_row
        and b.window.row < a.window.stop_row
        and a.window.col < b.window.stop_col
        and b.window.col < a.window.stop_col
    )
