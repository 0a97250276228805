"""Computed features, kept in memory up to a limit and on disk beyond it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from napari_uflow.image.grid import Window
from napari_uflow.model.border import replicate, replicated_mask

__all__ = ["CachedTile", "FeatureCache"]

_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True, slots=True)
class CachedTile:
    """The features of one tile.

    Attributes
    ----------
    features : tuple of Tensor, each (C_l, M_l, N_l), float16
        Finest level first; on the GPU that the cache was given, or on the processor.
    is_normal : tuple of Tensor, each (M_l, N_l), bool
        Positions that count.
    frame : Window or None
        Where the image lies as seen from the tile, in pixels; None where its border is of no importance.
    """

    features: tuple[Tensor, ...]
    is_normal: tuple[Tensor, ...]
    frame: Window | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the finest level."""
        return self.features[0].shape[-2], self.features[0].shape[-1]


class FeatureCache:
    """Tiles of features in float16; a context manager that removes what it wrote to disk.

    Parameters
    ----------
    memory_limit : float
        Bytes held in memory; tiles beyond it are memory-mapped from a temporary folder.
    device : torch.device, optional
        A GPU that holds the first of them, up to `device_limit` bytes: what lies there is not sent in every step.
    device_limit : float
        Bytes held on the device.
    """

    def __init__(self, memory_limit: float, device: torch.device | None = None, device_limit: float = 0.0):
        self._memory_limit = memory_limit
        self._device, self._device_limit = device, device_limit
        self.n_bytes_on_device = 0
        self._tiles: list[CachedTile] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.n_bytes_in_memory = 0
        self.n_bytes_on_disk = 0

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> CachedTile:
        return self._tiles[index]

    def add(self, features: Sequence[Tensor], is_normal: Sequence[Tensor], frame: Window | None = None) -> None:
        """Keep the features of one tile, each (C_l, M_l, N_l); values beyond float16 are clipped."""
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
            self.n_bytes_on_disk += size
            kept = tuple(self._on_disk(x, level) for level, x in enumerate(halves))
        self._tiles.append(CachedTile(kept, tuple(x.to("cpu", torch.bool) for x in is_normal), frame))

    def replicate_border(self, strides: Sequence[int]) -> None:
        """Replace, once for all, the features at the images' borders by those further in.

        A position is normal from then on only where the one that it has its features from is normal too.

        Parameters
        ----------
        strides : sequence of int
            Pixels per position of each level.
        """
        for i, tile in enumerate(self._tiles):
            for x, stride in zip(tile.features, strides, strict=True):
                x.copy_(replicate(x, tile.frame, stride))
            masks = [replicated_mask(x, tile.frame, stride) for x, stride in zip(tile.is_normal, strides, strict=True)]
            self._tiles[i] = replace(tile, is_normal=tuple(masks))

    def _on_disk(self, x: Tensor, level: int) -> Tensor:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="napari-uflow-")
        path = Path(self._folder.name) / f"{len(self._tiles)}_{level}.f16"
        mapped = np.memmap(path, dtype=np.float16, mode="w+", shape=tuple(x.shape))
        mapped[:] = x.numpy()
        return torch.from_numpy(mapped)

    def close(self) -> None:
        """Forget everything and remove the files."""
        self._tiles.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
