"""Choosing few vectors that stand for many: a coreset."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from napari_uflow.progress import Chunks

__all__ = ["coreset_in_chunks"]

# Part of a coreset that is drawn at random: where normal positions lie close together, there are more of them, and a
# defect that went unnoticed among the normal images does not become a neighbour of half of the coreset.
_DRAWN = 0.5
# Numbers that distances are estimated from.
_PROJECTED = 64
# Vectors chosen between two pauses.
_TOGETHER = 100


def coreset_in_chunks(vectors: Tensor, n: int, rng: np.random.Generator) -> Chunks[Tensor]:
    """Choose some of many vectors: half of them at random, then again and again the one farthest from all chosen.

    The computation pauses between hundreds of them.

    Parameters
    ----------
    vectors : Tensor (K, C), float32
        Vectors to choose from, on the CPU.
    n : int
        Number of them to choose.
    rng : Generator
        Draws the random half, and the projection on which distances are estimated.

    Returns
    -------
    Tensor (min(n, K),), int64
        Their indices, in rising order.

    References
    ----------
    T. F. Gonzalez (1985). Clustering to minimize the maximum intercluster distance. Theoretical Computer Science 38.
    https://doi.org/10.1016/0304-3975(85)90224-5. For normal positions: K. Roth et al. (2022), see
    :class:`napari_uflow.model.memory.Memory`.
    """
    n = min(n, len(vectors))
    drawn = rng.permutation(len(vectors))[: math.ceil(_DRAWN * n)].tolist()
    projection = rng.standard_normal((vectors.shape[1], _PROJECTED), dtype=np.float32)
    short = vectors @ torch.from_numpy(projection)
    squares = short.square().sum(dim=1)
    least = torch.full((len(vectors),), math.inf)
    chosen: list[int] = []
    for k in range(n):
        if k % _TOGETHER == 0:
            yield
        i = drawn[k] if k < len(drawn) else int(least.argmax())
        chosen.append(i)
        # |x - v|^2 = |x|^2 - 2 x v + |v|^2
        distances = torch.addmv(squares, short, short[i], alpha=-2).add_(squares[i])
        torch.minimum(least, distances, out=least)
        least[i] = -math.inf
    return torch.tensor(sorted(chosen), dtype=torch.int64)
