"""Feature normalisation, between the frozen backbone and the flow.

Its statistics are fitted once to normal positions and then fixed: no parameter can lower the loss by shrinking the
features, so a lower loss always means a better density.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FeatureNorm", "NormKind"]

NormKind = Literal["channel", "whiten", "position", "map"]

# Added to every eigenvalue of the correlation, over the mean eigenvalue: otherwise directions in which normal features
# hardly vary, rounding errors of the float16 cache among them, would be scaled up to unit variance.
_SHRINKAGE = 1e-2
# Smallest standard deviation of a channel, over the mean of all channels: dead channels stay near zero.
_MIN_STD = 1e-3


class FeatureNorm(nn.Module):
    """Normalise each level's features.

    Parameters
    ----------
    channels : sequence of int
        Channels of each level, finest first.
    kind : {"channel", "whiten", "position", "map"}
        ``channel`` subtracts each channel's mean and divides by its standard deviation over normal positions.
        ``whiten`` also decorrelates the channels (ZCA-cor with shrinkage). ``position`` first normalises over the
        channels at each position, ``map`` over channels and positions of the whole tile (as published, without the
        affine transform); both are whitened afterwards.

    References
    ----------
    A. Kessy, A. Lewin, K. Strimmer (2018). Optimal Whitening and Decorrelation. The American Statistician.
    https://doi.org/10.1080/00031305.2016.1277159. Equation 15 (ZCA-cor).
    """

    def __init__(self, channels: Sequence[int], kind: NormKind):
        super().__init__()
        self.kind = kind
        self.channels = tuple(channels)
        for level, n in enumerate(self.channels):
            self.register_buffer(f"mean_{level}", torch.zeros(n))
            self.register_buffer(f"scale_{level}", torch.ones(n) if kind == "channel" else torch.eye(n))

    @property
    def is_size_free(self) -> bool:
        """The result at a position does not depend on the size of the tile around it."""
        return self.kind != "map"

    def _first(self, x: Tensor) -> Tensor:
        if self.kind == "position":
            return F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)
        if self.kind == "map":
            return F.layer_norm(x, x.shape[1:])
        return x

    def level(self, level: int, x: Tensor) -> Tensor:
        """Normalise the features of one level, (B, C, M, N) float32."""
        mean: Tensor = getattr(self, f"mean_{level}")
        scale: Tensor = getattr(self, f"scale_{level}")
        x = self._first(x) - mean[:, None, None]
        if self.kind == "channel":
            return x * scale[:, None, None]
        return F.conv2d(x, scale[:, :, None, None])

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Normalise the features of every level, each (B, C_l, M_l, N_l) float32."""
        return tuple(self.level(i, x) for i, x in enumerate(features))

    @torch.no_grad()
    def fit(self, level: int, samples: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Fit one level's statistics.

        Parameters
        ----------
        level : int
            Level, 0 is the finest.
        samples : callable
            Returns an iterable of features (B, C, M, N), float, and masks (B, M, N), bool, of the positions that count.

        Raises
        ------
        ValueError
            If no position counts.
        """
        n = self.channels[level]
        total = torch.zeros((), dtype=torch.float64)
        first = torch.zeros(n, dtype=torch.float64)
        second = torch.zeros(n if self.kind == "channel" else (n, n), dtype=torch.float64)
        shift: Tensor | None = None
        for x, is_normal in samples():
            rows = self._first(x.float()).movedim(1, -1)[is_normal.to(x.device)]
            if not len(rows):
                continue
            if shift is None:  # an approximate centre keeps the second moments accurate in float32
                shift = rows.mean(dim=0)
            rows = rows - shift.to(rows.device)  # tiles may lie on a GPU or on the processor
            total += len(rows)
            # Not every GPU supports float64.
            first += rows.sum(dim=0).cpu().double()
            second += (rows.square().sum(dim=0) if self.kind == "channel" else rows.T @ rows).cpu().double()
        if shift is None:
            raise ValueError("no normal position to fit the feature normalisation on")
        mean = first / total
        getattr(self, f"mean_{level}").copy_((mean + shift.cpu().double()).float())
        if self.kind != "channel":
            covariance = second / total - mean[:, None] * mean
            # Channels differ in scale by orders of magnitude: whiten the correlation, not the covariance.
            std = _floored_std(covariance.diagonal())
            values, vectors = torch.linalg.eigh(covariance / std[:, None] / std)
            values = values.clamp_min(0)
            shrinkage = _SHRINKAGE * float(values.mean())
            root = (values + (shrinkage if shrinkage > 0 else 1.0)).rsqrt()
            getattr(self, f"scale_{level}").copy_(((vectors * root) @ vectors.T / std).float())
        else:
            std = _floored_std(second / total - mean.square())
            getattr(self, f"scale_{level}").copy_((1 / std).float())


def _floored_std(variance: Tensor) -> Tensor:
    std = variance.clamp_min(0).sqrt()
    floor = _MIN_STD * float(std.mean())
    return std.clamp_min(floor if floor > 0 else 1.0)
