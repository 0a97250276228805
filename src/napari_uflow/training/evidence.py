"""The memory of normal positions, and the scale of the evidence by border class."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from napari_uflow.model.memory import key_of, specimen_part
from napari_uflow.model.uflow import Sample, UFlow
from napari_uflow.progress import Chunks, Steps, phase_steps
from napari_uflow.training.cache import CachedTile, FeatureCache, FeatureCaches, Origin
from napari_uflow.training.coreset import coreset_in_chunks

__all__ = ["MOST_MEASURED", "evidence_steps", "memory_keys", "remembered_tiles", "samples_of", "scale_steps", "some_of"]

T = TypeVar("T")

MOST_MEASURED = 200
"""Tiles that the scale is fitted to."""
# Held-out specimens from which the kinds of evidence are weighed.
_FEWEST_HELD_OUT = 3
# Largest part of the memory that comes from regions marked normal, and from images that are not there any more.
_LARGEST_PART = 0.5
# Positions that the memory is chosen from, over its size; and the most of them.
_CANDIDATES = 6
_MOST_CANDIDATES = 40_000


def evidence_steps(
    network: UFlow,
    caches: FeatureCaches,
    rng: np.random.Generator,
    *,
    can_remember: bool = True,
    remembers_held_out: bool = False,
) -> Steps[None]:
    """Choose the memory of a network with joint levels, then fit the scale of its evidence.

    Vectors of a resumed model stay in the memory if their specimens are not in the caches.

    Parameters
    ----------
    network : UFlow
        Its memory and scale are replaced.
    caches : FeatureCaches
        Features of the tiles.
    rng : Generator
        Draws the positions.
    can_remember : bool
        False leaves the memory as it is: normal images could not be compared with it.
    remembers_held_out : bool
        Held-out tiles are remembered, too. Their specimens must be held out whole: each is then calibrated on without
        its own positions, and a new image, with one specimen more to compare with, has no larger distances.
    """
    held_out = caches.holdout if remembers_held_out else None
    if can_remember and network.config.evidence != "likelihood":
        yield from phase_steps(_choose(network, caches.train, held_out, rng), "Choosing the memory")
    yield from scale_steps(network, caches, rng)


def scale_steps(
    network: UFlow,
    caches: FeatureCaches,
    rng: np.random.Generator,
    *,
    only_likelihood: bool = False,
    most: int = MOST_MEASURED,
) -> Steps[None]:
    """Fit the scale of the evidence to training tiles, each compared with the memory of other specimens.

    The weights of its kinds come from held-out tiles, of three specimens or more.

    Parameters
    ----------
    network : UFlow
        Its scale is fitted.
    caches : FeatureCaches
        Features of the tiles.
    rng : Generator
        Draws tiles if there are many.
    only_likelihood : bool
        True after a change of the flow alone, which the distances from the memory do not depend on.
    most : int
        Largest number of tiles trained on, and of tiles held out.
    """
    train, holdout = (
        partial(samples_of, network, some_of(tiles, most, rng))
        for tiles in remembered_tiles(caches.train, caches.holdout, set(network.memory.keys.tolist()))
    )
    n_held_out = len({tile.origin.specimen for tile in caches.holdout})
    held_out = holdout if n_held_out >= _FEWEST_HELD_OUT else None
    fitted = network.fit_scale(train, held_out, only_likelihood=only_likelihood)
    yield from phase_steps(fitted, "Measuring normal positions")


def some_of(items: Sequence[T], most: int, rng: np.random.Generator) -> list[T]:
    """Draw at most `most` of some items at random, in their order."""
    return [items[int(i)] for i in np.sort(rng.permutation(len(items))[:most])]


def samples_of(network: UFlow, tiles: Sequence[RememberedTile]) -> Iterator[Sample]:
    """Yield tiles as the scale of a network is fitted to them."""
    for tile in tiles:
        cached = tile.cached
        yield cached.features[0][None].to(network.device).float(), cached.is_normal[0], cached.frame, tile.key


def memory_keys(origins: Sequence[Origin], held_out: Collection[str] = ()) -> list[int]:
    """Return the key of each tile in the memory: that of its specimen, or its own if all are of one.

    Regions marked normal do not count: a few of them, of another specimen, are nothing to compare the others with.

    Parameters
    ----------
    origins : sequence of Origin
        Where each tile comes from.
    held_out : collection of str
        Specimens held out.
    """
    trained = {origin.specimen for origin in origins if not origin.is_marked_normal}
    is_single = len(trained.union(held_out)) == 1
    return [key_of(o.specimen, o.tile if is_single and o.specimen in trained else None) for o in origins]


@dataclass(frozen=True, slots=True)
class RememberedTile:
    """A tile of a cache, not an augmentation, and its key in the memory."""

    cache: FeatureCache
    index: int
    key: int

    @property
    def cached(self) -> CachedTile:
        return self.cache[self.index]

    @property
    def n_positions(self) -> int:
        return int(self.cached.is_normal[0].sum())


def remembered_tiles(
    train: FeatureCache, holdout: FeatureCache | None, known: Collection[int] = ()
) -> tuple[list[RememberedTile], list[RememberedTile]]:
    """Return the tiles trained on and those held out, each once.

    Augmentations are left out, which a new image does not have, and repetitions, which say nothing new. A specimen
    whose key is among those known is in a memory as a whole, although it may be the only one left.
    """
    caches = [train] if holdout is None else [train, holdout]
    held_out = set[str]() if holdout is None else {holdout[i].origin.specimen for i in range(len(holdout))}
    found: list[list[RememberedTile]] = [[], []]
    for tiles, cache in zip(found, caches, strict=False):
        first = {cache[i].origin: i for i in reversed(range(len(cache))) if not cache[i].origin.is_augmented}
        indices = sorted(first.values())
        origins = [cache[i].origin for i in indices]
        whole = [key_of(origin.specimen) for origin in origins]
        keys = memory_keys(origins, held_out) if cache is train else whole
        keys = [of_all if of_all in known else key for key, of_all in zip(keys, whole, strict=True)]
        tiles += [RememberedTile(cache, i, key) for i, key in zip(indices, keys, strict=True)]
    return found[0], found[1]


def _choose(
    network: UFlow, train: FeatureCache, holdout: FeatureCache | None, rng: np.random.Generator
) -> Chunks[None]:
    """Choose normal positions of all tiles, with pauses; those marked normal first."""
    old, size = network.memory, network.config.memory_size
    names = {cache[i].origin.specimen for cache in (train, holdout) if cache is not None for i in range(len(cache))}
    # beside vectors of others, each specimen is one
    whole = {key_of(name) for name in names} if old.has_others(names) else set[int]()
    tiles = [tile for of_cache in remembered_tiles(train, holdout, whole) for tile in of_cache]
    keys = torch.tensor([tile.key for tile in tiles])
    is_there = torch.isin(specimen_part(old.keys.cpu()), specimen_part(keys))
    kept = np.flatnonzero(~is_there.numpy())
    kept = rng.permutation(kept)[: int(_LARGEST_PART * size)]
    room = size - len(kept)
    of_marked = _drawn([t for t in tiles if t.cached.origin.is_marked_normal], int(_LARGEST_PART * room), rng)
    n_marked = sum(len(vectors) for vectors, _ in of_marked)
    others = [t for t in tiles if not t.cached.origin.is_marked_normal]
    candidates = max(room, min(_CANDIDATES * room, _MOST_CANDIDATES)) - n_marked
    of_others = yield from _chosen(_drawn(others, candidates, rng), room - n_marked, rng)
    if len({tile.key for tile in tiles}) + len(kept) < 2:  # a single tile cannot be compared with others
        return
    at = torch.from_numpy(kept)
    vectors, of = zip((old.vectors.cpu()[at], old.keys.cpu()[at]), *of_marked, *of_others, strict=True)
    network.memory.keep(torch.cat(vectors), torch.cat(of))


def _chosen(
    candidates: list[tuple[Tensor, Tensor]], most: int, rng: np.random.Generator
) -> Chunks[list[tuple[Tensor, Tensor]]]:
    """Choose at most `most` of some positions that stand for all of them: vectors (n, C) and keys (n,)."""
    if sum(len(keys) for _, keys in candidates) <= most:
        return candidates
    vectors, keys = (torch.cat(parts) for parts in zip(*candidates, strict=True))
    at = yield from coreset_in_chunks(vectors, most, rng)
    return [(vectors[at], keys[at])]


def _drawn(tiles: Sequence[RememberedTile], most: int, rng: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
    """Draw at most `most` normal positions of some tiles: vectors (n, C) and keys (n,) of each."""
    counts = np.array([tile.n_positions for tile in tiles], dtype=np.int64)
    ends = np.cumsum(counts)
    n = int(ends[-1]) if len(ends) else 0
    picked = np.sort(rng.choice(n, min(n, max(most, 0)), replace=False)) if n else np.empty(0, np.int64)
    found = []
    for tile, end, count in zip(tiles, ends, counts, strict=True):
        own = picked[(picked >= end - count) & (picked < end)] - (end - count)
        if len(own):
            features, is_normal = tile.cached.features[0], tile.cached.is_normal[0]
            at = is_normal.flatten().nonzero()[:, 0][torch.from_numpy(own)]
            vectors = features.flatten(1)[:, at.to(features.device)].T.float().cpu()
            found.append((vectors, torch.full((len(own),), tile.key, dtype=torch.int64)))
    return found
