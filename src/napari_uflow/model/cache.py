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

from napari_uflow.image import Window
from napari_uflow.model.border import hold

__all__ = ["CachedTile", "FeatureCache"]

_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True, slots=True)
class CachedTile:
    """The features of one tile.

    Attributes
    ----------
    features : tuple of Tensor, each (C_l, M_l, N_l), float16
        Finest level first.
    is_normal : tuple of Tensor, each (M_l, N_l), bool
        Positions that count.
    frame : Window or None
        Where the picture lies as seen from the tile, in pixels; None where its border is of no importance.
    """

    features: tuple[Tensor, ...]
    is_normal: tuple[Tensor, ...]
    frame: Window | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the finest level."""
        return self.features[0].shape[-2], self.features[0].shape[-1]

    def held(self, strides: Sequence[int]) -> CachedTile:
        """Return the tile with the features at the picture's border replaced by those further in.

        A position is normal only where the one that it has its features from is normal too.
        """
        held = [
            (hold(x, self.frame, stride), normal & hold(normal, self.frame, stride))
            for x, normal, stride in zip(self.features, self.is_normal, strides, strict=True)
        ]
        return replace(self, features=tuple(x for x, _ in held), is_normal=tuple(normal for _, normal in held))


class FeatureCache:
    """Tiles of features in float16; a context manager that removes what it wrote to disk.

    Parameters
    ----------
    memory_limit : float
        Bytes held in memory; tiles beyond it are memory-mapped from a temporary folder.

    Attributes
    ----------
    held_strides : tuple of int
        Pixels per position of each level, for tiles to be handed out with what is at the picture's border replaced;
        empty for tiles as they were given. May be changed at any time.
    """

    def __init__(self, memory_limit: float):
        self.held_strides: tuple[int, ...] = ()
        self._memory_limit = memory_limit
        self._tiles: list[CachedTile] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.n_bytes_in_memory = 0
        self.n_bytes_on_disk = 0

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> CachedTile:
        tile = self._tiles[index]
        return tile.held(self.held_strides) if self.held_strides else tile

    def add(self, features: Sequence[Tensor], is_normal: Sequence[Tensor], frame: Window | None = None) -> None:
        """Keep the features of one tile, each (C_l, M_l, N_l); values beyond float16 are clipped."""
        halves = [x.detach().clamp(-_LARGEST, _LARGEST).to("cpu", torch.float16) for x in features]
        size = sum(x.numel() * x.element_size() for x in halves)
        if self.n_bytes_in_memory + size <= self._memory_limit:
            self.n_bytes_in_memory += size
            kept = tuple(x.contiguous() for x in halves)
        else:
            self.n_bytes_on_disk += size
            kept = tuple(self._on_disk(x, level) for level, x in enumerate(halves))
        self._tiles.append(CachedTile(kept, tuple(x.to("cpu", torch.bool) for x in is_normal), frame))

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
