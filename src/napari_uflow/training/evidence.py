"""The memory of normal positions, and the scale of the evidence by border class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_uflow.image.grid import Window
from napari_uflow.model.memory import key_of, specimen_part
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Progress, Steps, chunk_steps, or_stop
from napari_uflow.training.cache import FeatureCache, FeatureCaches, Origin

__all__ = ["evidence_steps", "memory_keys", "scale_steps"]

# Tiles that the scale is fitted to.
_MOST_MEASURED = 200
# Held-out specimens from which the kinds of evidence are weighed.
_FEWEST_HELD_OUT = 3
# Largest part of the memory that comes from regions marked normal, and from images that are not there any more.
_LARGEST_PART = 0.5


def evidence_steps(
    network: UFlow, caches: FeatureCaches, rng: np.random.Generator, *, can_remember: bool = True
) -> Steps[None]:
    """Choose the memory of a network with joint levels, then fit the scale of its evidence.

    Vectors of a resumed model stay in the memory if their specimens are not in the cache.

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
    """
    if can_remember and network.config.evidence != "likelihood":
        yield from or_stop(Progress("Choosing the memory", 0, 1))
        _choose(network, caches.train, rng)
        yield from or_stop(Progress("Choosing the memory", 1, 1))
    yield from scale_steps(network, caches, rng)


def scale_steps(network: UFlow, caches: FeatureCaches, rng: np.random.Generator) -> Steps[None]:
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
    """
    progress = Progress("Measuring normal positions", 0, 1)
    train, holdout = (
        partial(_samples, network, cache, _keys(cache), np.sort(rng.permutation(len(cache))[:_MOST_MEASURED]))
        for cache in (caches.train, caches.holdout)
    )
    n_held_out = len({caches.holdout[i].origin.specimen for i in range(len(caches.holdout))})
    yield from or_stop(progress)
    yield from chunk_steps(network.fit_scale(train, holdout if n_held_out >= _FEWEST_HELD_OUT else None), progress)
    yield from or_stop(Progress("Measuring normal positions", 1, 1))


def _samples(
    network: UFlow, cache: FeatureCache, keys: Sequence[int], chosen: NDArray[np.int64]
) -> Iterator[tuple[Tensor, Tensor, Window | None, int]]:
    for i in chosen:
        tile = cache[int(i)]
        yield tile.features[0][None].to(network.device).float(), tile.is_normal[0], tile.frame, keys[int(i)]


def memory_keys(origins: Sequence[Origin]) -> list[int]:
    """Return the key of each tile in the memory: that of its specimen, or its own if all are of one.

    Regions marked normal do not count: a few of them, of another specimen, are nothing to compare the others with.

    Parameters
    ----------
    origins : sequence of Origin
        Where each tile comes from.
    """
    trained = {origin.specimen for origin in origins if not origin.is_marked_normal}
    is_single = len(trained) == 1
    return [key_of(o.specimen, o.tile if is_single and o.specimen in trained else None) for o in origins]


def _keys(cache: FeatureCache) -> list[int]:
    return memory_keys([cache[i].origin for i in range(len(cache))])


def _choose(network: UFlow, cache: FeatureCache, rng: np.random.Generator) -> None:
    """Draw normal positions of all tiles at random; those marked normal first."""
    keys = _keys(cache)
    size = network.config.memory_size
    old = network.memory
    is_there = torch.isin(specimen_part(old.keys.cpu()), specimen_part(torch.tensor(keys)))
    kept = np.flatnonzero(~is_there.numpy())
    kept = rng.permutation(kept)[: int(_LARGEST_PART * size)]
    is_marked = [cache[i].origin.is_marked_normal for i in range(len(cache))]
    marked = [i for i in range(len(cache)) if is_marked[i]]
    others = [i for i in range(len(cache)) if not is_marked[i]]
    room = size - len(kept)
    of_marked = _drawn(cache, marked, keys, int(_LARGEST_PART * room), rng)
    of_others = _drawn(cache, others, keys, room - len(of_marked[0]), rng)
    if len(set(keys)) + len(kept) < 2:  # a single tile cannot be compared with others
        return
    at = torch.from_numpy(kept)
    old_vectors, old_keys = old.vectors.cpu()[at], old.keys.cpu()[at]
    network.memory.keep(
        torch.cat([old_vectors, of_marked[0], of_others[0]]), torch.cat([old_keys, of_marked[1], of_others[1]])
    )


def _drawn(
    cache: FeatureCache, tiles: list[int], keys: list[int], most: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw at most `most` normal positions of some tiles: vectors (n, C) and keys (n,)."""
    counts = np.array([int(cache[i].is_normal[0].sum()) for i in tiles], dtype=np.int64)
    ends = np.cumsum(counts)
    n = int(ends[-1]) if len(ends) else 0
    picked = np.sort(rng.choice(n, min(n, max(most, 0)), replace=False)) if n else np.empty(0, np.int64)
    channels = cache[0].features[0].shape[0]
    vectors, of = [torch.zeros(0, channels)], [torch.zeros(0, dtype=torch.int64)]
    for i, end, count in zip(tiles, ends, counts, strict=True):
        own = picked[(picked >= end - count) & (picked < end)] - (end - count)
        if len(own):
            tile = cache[i]
            at = tile.is_normal[0].flatten().nonzero()[:, 0][torch.from_numpy(own)]
            vectors.append(tile.features[0].flatten(1)[:, at.to(tile.features[0].device)].T.float().cpu())
            of.append(torch.full((len(own),), keys[i], dtype=torch.int64))
    return torch.cat(vectors), torch.cat(of)
