"""Cached features: in memory up to a limit, on disk beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_uflow.errors import UFlowError
from napari_uflow.image.grid import Window
from napari_uflow.model.border import Border
from napari_uflow.system.devices import memory_for_tiles
from napari_uflow.system.scratch import allocate_on_disk

__all__ = ["CachedTile", "FeatureCache", "FeatureCaches", "Origin", "TileLists", "TileSets", "Tiles"]

_LARGEST = torch.finfo(torch.float16).max
# Memory for held-out tiles, over that for training tiles: there are fewer, and they are not augmented.
_HOLDOUT_PART = 0.25
# Training tiles' part of a GPU's memory for tiles; held-out tiles get the rest.
_TRAIN_PART_OF_GPU = 0.8
# float16 values of a file: tiles share files, since a process may have only a few hundred files open. A file is as
# large as those before it together, within these limits.
_FEWEST_VALUES, _MOST_VALUES = 2**24, 2**29
_NOTHING = np.empty(0, np.float16)


def _block_for(n_values: int, n_before: int) -> NDArray[np.float16]:
    """Return a new file of at least `n_values`, not of many more if the disk has no room for them."""
    n = max(n_values, min(max(n_before, _FEWEST_VALUES), _MOST_VALUES))
    while True:
        try:
            return allocate_on_disk((n,), np.float16, what="features")
        except UFlowError:
            if n == n_values:
                raise
            n = max(n_values, n // 2)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tile comes from.

    Attributes
    ----------
    specimen : str
        Its specimen.
    tile : int
        Its number among the tiles of the cache.
    is_marked_normal : bool
        It holds a reported region that the user marked normal.
    is_augmented : bool
        It is mirrored or transposed.
    """

    specimen: str = ""
    tile: int = 0
    is_marked_normal: bool = False
    is_augmented: bool = False


@dataclass(frozen=True, slots=True)
class CachedTile:
    """The features of one tile.

    Attributes
    ----------
    features : tuple of Tensor, each (C_l, M_l, N_l), float16
        Finest level first; on the GPU of the cache, or on the CPU.
    is_normal : tuple of Tensor, each (M_l, N_l), bool
        Positions that count; on the CPU.
    frame : Window or None
        The image in the tile's pixel coordinates; None if its border has no treatment.
    origin : Origin
        Where the tile comes from.
    """

    features: tuple[Tensor, ...]
    is_normal: tuple[Tensor, ...]
    frame: Window | None = None
    origin: Origin = Origin()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the finest level."""
        return self.features[0].shape[-2], self.features[0].shape[-1]


class Tiles(Protocol):
    """Tiles by their number: a cache, or a list of some of its tiles."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[CachedTile]: ...
    def __getitem__(self, index: int, /) -> CachedTile: ...


class TileSets(Protocol):
    """Tiles trained on, and tiles held out."""

    @property
    def train(self) -> Tiles:
        """Tiles trained on."""

    @property
    def holdout(self) -> Tiles:
        """Tiles held out."""


@dataclass(frozen=True, slots=True)
class TileLists:
    """Some of the tiles of a training: lists of those trained on and of those held out."""

    train: Sequence[CachedTile]
    holdout: Sequence[CachedTile] = ()


class FeatureCache:
    """Features of tiles in float16; a context manager that drops them.

    Parameters
    ----------
    memory_limit : float
        Bytes in memory; further tiles are memory-mapped from temporary files, which have no names.
    device : torch.device, optional
        GPU that holds the first tiles, which need not be copied to it in every step.
    device_limit : float
        Bytes on the device.

    Attributes
    ----------
    n_bytes_on_device, n_bytes_in_memory, n_bytes_on_disk : int
        Bytes of features in each place.
    """

    def __init__(self, memory_limit: float, device: torch.device | None = None, device_limit: float = 0.0):
        self._memory_limit = memory_limit
        self._device, self._device_limit = device, device_limit
        self._tiles: list[CachedTile] = []
        self._block: NDArray[np.float16] = _NOTHING  # the free part of the file that is being filled
        self.n_bytes_on_device = 0
        self.n_bytes_in_memory = 0
        self.n_bytes_on_disk = 0

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> CachedTile:
        return self._tiles[index]

    def __iter__(self) -> Iterator[CachedTile]:
        return iter(self._tiles)

    def add(
        self,
        features: Sequence[Tensor],
        is_normal: Sequence[Tensor],
        frame: Window | None = None,
        origin: Origin = Origin(),
    ) -> None:
        """Add the features of one tile; values beyond the range of float16 are clipped.

        Parameters
        ----------
        features : sequence of Tensor, each (C_l, M_l, N_l)
            Finest level first.
        is_normal : sequence of Tensor, each (M_l, N_l), bool
            Positions that count.
        frame : Window, optional
            The image in the tile's pixel coordinates.
        origin : Origin, optional
            Where the tile comes from.

        Raises
        ------
        UFlowError
            If the disk has not enough free space.
        """
        size = 2 * sum(x.numel() for x in features)
        is_on_device = self._device is not None and self.n_bytes_on_device + size <= self._device_limit
        place = self._device if is_on_device else torch.device("cpu")
        halves = [x.detach().clamp(-_LARGEST, _LARGEST).to(place, torch.float16) for x in features]
        if is_on_device:
            self.n_bytes_on_device += size
            kept = tuple(x.contiguous() for x in halves)
        elif self.n_bytes_in_memory + size <= self._memory_limit:
            self.n_bytes_in_memory += size
            kept = tuple(x.contiguous() for x in halves)
        else:
            kept = tuple(self._on_disk(x) for x in halves)
            self.n_bytes_on_disk += size
        self._tiles.append(CachedTile(kept, tuple(x.to("cpu", torch.bool) for x in is_normal), frame, origin))

    def apply_border(self, border: Border, strides: Sequence[int]) -> None:
        """Treat the images' borders, once and for all.

        A position counts from then on only if the one that it takes its features from counts, too.

        Parameters
        ----------
        border : Border
            The treatment.
        strides : sequence of int
            Pixels per position of each level, finest first.
        """
        for i, tile in enumerate(self._tiles):
            for x, stride in zip(tile.features, strides, strict=True):
                treated = border.apply(x, tile.frame, stride)
                if treated is not x:
                    x.copy_(treated)
            masks = [border.mask(x, tile.frame, stride) for x, stride in zip(tile.is_normal, strides, strict=True)]
            self._tiles[i] = replace(tile, is_normal=tuple(masks))

    def _on_disk(self, x: Tensor) -> Tensor:
        """Return a copy in the current block; a new block follows one that is full."""
        if x.numel() > len(self._block):
            self._block = _block_for(x.numel(), self.n_bytes_on_disk // 2)
        kept, self._block = self._block[: x.numel()], self._block[x.numel() :]
        return torch.from_numpy(kept.reshape(tuple(x.shape))).copy_(x)

    def close(self) -> None:
        """Drop all tiles; a file is removed as soon as nothing refers to its tiles."""
        self._tiles.clear()
        self._block = _NOTHING

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class FeatureCaches:
    """The features of a training; a context manager that drops them.

    Attributes
    ----------
    train, holdout : FeatureCache
        Augmented features of the training tiles, and those of the held-out tiles.
    """

    train: FeatureCache
    holdout: FeatureCache

    @classmethod
    def open(cls, memory_limit: float, device: torch.device) -> Self:
        """Make empty caches.

        Parameters
        ----------
        memory_limit : float
            Bytes of the training tiles in memory; held-out tiles get a quarter as much besides.
        device : torch.device
            Device of the training; a CUDA GPU holds tiles as far as its free memory allows.
        """
        if device.type != "cuda":
            return cls(FeatureCache(memory_limit), FeatureCache(_HOLDOUT_PART * memory_limit))
        room = memory_for_tiles(device)
        return cls(
            FeatureCache(memory_limit, device, _TRAIN_PART_OF_GPU * room),
            FeatureCache(_HOLDOUT_PART * memory_limit, device, (1 - _TRAIN_PART_OF_GPU) * room),
        )

    def apply_border(self, border: Border, strides: Sequence[int]) -> None:
        """Treat the images' borders in all tiles, see :meth:`FeatureCache.apply_border`."""
        for cache in (self.train, self.holdout):
            cache.apply_border(border, strides)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.train.close()
        self.holdout.close()
