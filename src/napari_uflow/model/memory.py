"""Memory of normal positions: the distances of a position from the nearest of them."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from napari_uflow.progress import Chunks, run_chunks

__all__ = ["Memory", "key_of", "specimen_part"]

# Distances computed together: 64 MB.
_DISTANCES_TOGETHER = 16_000_000


# Bits of a key that number the tile; those of the specimen's name are above them.
_TILE_BITS = 31


def key_of(specimen: str, tile: int | None = None) -> int:
    """Return the number, 63 bits, that stands for a specimen, or for one tile of it, in a memory."""
    return zlib.crc32(specimen.encode("utf-8", "surrogatepass")) << _TILE_BITS | (0 if tile is None else tile + 1)


def specimen_part(keys: Tensor) -> Tensor:
    """Return the part of keys, int64, that is the same for a specimen and for all of its tiles."""
    return keys >> _TILE_BITS


class Memory(nn.Module):
    """Vectors of normal positions, and the specimens that they come from.

    Parameters
    ----------
    channels : int
        Length of a vector: of all of its parts together.
    n_parts : int
        Parts of a vector, of equal length C, each compared on its own.

    Attributes
    ----------
    vectors : Tensor (K, n_parts * C), float32
        Features of normal positions; K is 0 until they are chosen.
    keys : Tensor (K,), int64
        :func:`key_of` the specimen, or the tile, of each.

    References
    ----------
    K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler (2022). Towards Total Recall in Industrial Anomaly
    Detection. CVPR. https://doi.org/10.1109/CVPR52688.2022.01392
    """

    vectors: Tensor
    keys: Tensor

    def __init__(self, channels: int, n_parts: int = 1):
        super().__init__()
        self.channels, self.n_parts = channels, n_parts
        self.register_buffer("vectors", torch.zeros(0, channels))
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64))
        self._key: int | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def keep(self, vectors: Tensor, keys: Tensor) -> None:
        """Replace the vectors (K, n_parts * C), and their keys (K,)."""
        device = self.vectors.device
        self.vectors = vectors.detach().to(device, torch.float32).contiguous()
        self.keys = keys.to(device, torch.int64)

    def has_others(self, specimens: Collection[str]) -> bool:
        """Return True if there are vectors of other specimens than these."""
        own = torch.tensor([key_of(name) for name in specimens], dtype=torch.int64)
        return not bool(torch.isin(specimen_part(self.keys.cpu()), specimen_part(own)).all())

    @contextmanager
    def without(self, key: int | None) -> Iterator[None]:
        """Leave the vectors of one key out for a while: they hold the positions of its specimen or tile themselves."""
        self._key, before = key, self._key
        try:
            yield
        finally:
            self._key = before

    def distance(self, x: Tensor) -> Tensor:
        """Return the distances of features, see :meth:`distance_in_chunks`."""
        return run_chunks(self.distance_in_chunks(x))

    @torch.no_grad()
    def distance_in_chunks(self, x: Tensor) -> Chunks[Tensor]:
        """Compute the distances of each position from the nearest vector, of each part for itself, with pauses.

        Parameters
        ----------
        x : Tensor (B, n_parts * C, M, N), float32

        Returns
        -------
        Tensor (B, n_parts, M, N), float32
            Euclidean distances over the square root of C; 0 for an empty memory.
        """
        vectors = self.vectors if self._key is None else self.vectors[self.keys != self._key]
        if not len(vectors):
            return x.new_zeros(len(x), self.n_parts, *x.shape[2:])
        found = []
        for part, of_memory in zip(x.chunk(self.n_parts, dim=1), vectors.chunk(self.n_parts, dim=1), strict=True):
            found.append((yield from self._nearest(part, of_memory)))
        return torch.stack(found, dim=1)

    @staticmethod
    def _nearest(x: Tensor, vectors: Tensor) -> Chunks[Tensor]:
        """Compute the distances (B, M, N) of features (B, C, M, N) from the nearest of vectors (K, C)."""
        batch, channels, m, n = x.shape
        rows = x.movedim(1, -1).reshape(-1, channels)
        # |x - v|^2 = |x|^2 + (|v|^2 - 2 x v): one product of matrices
        doubled = (-2 * vectors).T.contiguous()
        squares = vectors.square().sum(dim=1)
        found = []
        for part in torch.split(rows, max(1, _DISTANCES_TOGETHER // len(vectors))):
            least = torch.addmm(squares, part, doubled).amin(dim=1)
            found.append((least + part.square().sum(dim=1)).clamp_min_(0).div_(channels).sqrt_())
            yield
        return torch.cat(found).view(batch, m, n)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Take as many vectors as the state holds, of the same length and with as many keys."""
        value = state_dict.get(prefix + "vectors")
        if isinstance(value, Tensor) and value.ndim:
            self.vectors = self.vectors.new_zeros(len(value), self.channels)
            self.keys = self.keys.new_zeros(len(value))
        super()._load_from_state_dict(state_dict, prefix, *args)
