"""Which tiles of the normal regions a model is trained on, and which are held out."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from napari_uflow.config import TrainingConfig
from napari_uflow.errors import ImageError
from napari_uflow.image import NormalRegion, Window, hold_out_fields, sample_windows

__all__ = ["TrainingTile", "choose_tiles", "regions_of"]


@dataclass(frozen=True, slots=True)
class TrainingTile:
    """A window of a normal region."""

    region: NormalRegion
    window: Window


def regions_of(tiles: Sequence[TrainingTile]) -> list[NormalRegion]:
    """Return the regions that tiles come from, each once."""
    return list({id(tile.region): tile.region for tile in tiles}.values())


def choose_tiles(
    regions: Sequence[NormalRegion],
    tile: int,
    align: int,
    training: TrainingConfig,
    rng: np.random.Generator,
    held_out: Collection[str] = (),
) -> tuple[list[TrainingTile], list[TrainingTile]]:
    """Choose the tiles to train on and the tiles that are held out.

    Whole fields are held out. Where there is only one field, the last tiles of each of its pictures are, and what
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
    held_out : collection of str
        Fields to hold out, those of a model whose training goes on; where none of them is among the regions, fields are
        chosen anew.

    Returns
    -------
    train_tiles, holdout_tiles : list of TrainingTile
        The second one is empty where nothing can be held out.

    Raises
    ------
    ImageError
        If no tile is normal enough.
    """
    names = [region.field for region in regions]
    held_out = frozenset(held_out).intersection(names) or hold_out_fields(names, training.holdout, training.seed)
    tiles: list[TrainingTile] = []
    for region in regions:
        windows = sample_windows(region, tile, align=align, min_normal=training.min_normal)
        tiles += [TrainingTile(region, window) for window in windows]
    if not tiles:
        raise ImageError(
            f"no tile of {tile} x {tile} pixels has at least {training.min_normal:.0%} normal pixels: "
            f"mark more as normal, or lower min_normal or the tile size"
        )
    train_tiles = [t for t in tiles if t.region.field not in held_out]
    holdout_tiles = [t for t in tiles if t.region.field in held_out]
    if not train_tiles:  # the fields left have no tile that is normal enough
        train_tiles, holdout_tiles = tiles, []
    if not holdout_tiles and training.holdout > 0:
        train_tiles, holdout_tiles = _split_by_place(tiles, training.holdout)
    if len(train_tiles) > training.max_tiles:
        chosen = np.sort(rng.choice(len(train_tiles), training.max_tiles, replace=False))
        train_tiles = [train_tiles[i] for i in chosen]
    most = max(1, math.ceil(training.max_tiles * training.holdout))
    if len(holdout_tiles) > most:
        chosen = np.sort(rng.choice(len(holdout_tiles), most, replace=False))
        holdout_tiles = [holdout_tiles[i] for i in chosen]
    return train_tiles, holdout_tiles


def _split_by_place(tiles: Sequence[TrainingTile], fraction: float) -> tuple[list[TrainingTile], list[TrainingTile]]:
    """Hold out the last tiles of each picture; what overlaps with one of them is not used at all."""
    by_picture: dict[int, list[TrainingTile]] = {}
    for tile in sorted(tiles, key=lambda tile: tile.window):
        by_picture.setdefault(id(tile.region.plane), []).append(tile)
    kept: list[TrainingTile] = []
    held: list[TrainingTile] = []
    for group in by_picture.values():
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
