"""Joint features: all levels of a backbone at each position, so that one position is one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_uflow.model.info import JOINT_STRIDE

__all__ = ["APERTURES", "join"]

APERTURES = 2
"""Joint features of a position: its own, and the mean over it and its neighbours."""


def join(features: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Join the features of all levels on one grid, sharp and wide.

    Finer levels are averaged over the positions of the grid, coarser ones are interpolated bilinearly. These sharp
    features locate thin structures; their means over 3 x 3 positions, the wide ones, are less noisy.

    Parameters
    ----------
    features : sequence of Tensor, each (B, C_l, M_l, N_l), float32
        Finest level first.
    strides : sequence of int
        Pixels per position of each level.

    Returns
    -------
    Tensor (B, 2 C, M, N), float32
        One position for each 8 x 8 pixels: C = sum of C_l sharp features, then as many wide ones.

    References
    ----------
    K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler (2022). Towards Total Recall in Industrial Anomaly
    Detection. CVPR. https://doi.org/10.1109/CVPR52688.2022.01392 (locally aware patch features: the wide ones).
    """
    stride = strides[0]
    size = (features[0].shape[-2] * stride // JOINT_STRIDE, features[0].shape[-1] * stride // JOINT_STRIDE)
    joined = []
    for x, own in zip(features, strides, strict=True):
        if own < JOINT_STRIDE:
            joined.append(F.avg_pool2d(x, JOINT_STRIDE // own))
        elif own > JOINT_STRIDE:
            joined.append(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
        else:
            joined.append(x)
    sharp = torch.cat(joined, dim=1)
    wide = F.avg_pool2d(sharp, 3, stride=1, padding=1, count_include_pad=False)
    return torch.cat([sharp, wide], dim=1)
