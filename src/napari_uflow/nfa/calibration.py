"""How energies are distributed where the picture is normal: the tail that turns an energy into a probability.

Under the model the latents are independent standard normals and an energy has a chi-squared tail. Real held-out
latents do not follow it: their bulk is narrower and single positions explode (the exponential of a coupling evaluated
off its training support). The tail is therefore taken from pictures that were held out of training: their empirical
distribution as far as there are enough values, and a generalised Pareto distribution beyond. Neighbouring energies are
correlated; the area over which they are counts as one observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

__all__ = ["EnergyTail"]

# Above this quantile the empirical distribution is replaced by a generalised Pareto distribution.
_TAIL_QUANTILE = 0.98
# Range of the Pareto shape: 0 is an exponential tail; at 1 the mean is infinite.
_SHAPES = (0.0, 0.9)
# Correlations below this are noise of the estimate.
_LEAST_CORRELATION = 0.05
_LARGEST_LAG = 12


@dataclass(frozen=True)
class EnergyTail:
    """Tail of the energies of one level on normal pictures.

    Attributes
    ----------
    energies : tuple of float
        Energies in increasing order, the last one is where the Pareto tail begins.
    log10_p : tuple of float
        log10 of the probability of an energy at least as high as each of `energies`, decreasing from 0.
    shape, scale : float
        Parameters of the generalised Pareto distribution of the excess of log(energy) over the last of `energies`.
    correlation_area : float
        Positions that together count as one independent observation, 1 or more.
    n_values : int
        Positions that the tail was fitted to.
    """

    energies: tuple[float, ...]
    log10_p: tuple[float, ...]
    shape: float
    scale: float
    correlation_area: float
    n_values: int

    @classmethod
    def fit(cls, maps: Sequence[NDArray[np.floating]]) -> Self:
        """Fit the tail to energy maps of held-out normal pictures.

        Parameters
        ----------
        maps : sequence of (M, N) arrays, float
            Energies; NaN where not measured.

        Raises
        ------
        ValueError
            If there are fewer than 50 values.
        """
        values = np.sort(np.concatenate([m[np.isfinite(m)].astype(np.float64) for m in maps]))
        n = len(values)
        if n < 50:
            raise ValueError(f"at least 50 held-out positions are needed, not {n}")
        values = np.maximum(values, np.finfo(np.float32).tiny)
        survival = np.concatenate(([1.0], np.geomspace(0.999, 1 - _TAIL_QUANTILE, 63)))
        knots = np.quantile(values, 1 - survival)
        # Equal energies keep the larger probability, so that the tail decreases strictly.
        knots, first = np.unique(knots, return_index=True)
        log10_p = np.log10(survival[first])
        threshold = knots[-1]
        excess = np.log(values[values > threshold] / threshold)
        shape, scale = _pareto_fit(excess) if len(excess) >= 5 else (_SHAPES[1], 0.5)
        return cls(tuple(map(float, knots)), tuple(map(float, log10_p)), shape, scale, _correlation_area(maps), n)

    def log10_tail(self, energy: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return log10 of the probability of energies at least as high as those given.

        Parameters
        ----------
        energy : (M, N) array, float
            NaN where not measured.

        Returns
        -------
        (M, N) array, float64
            At most 0; 0 where not measured.
        """
        energy = np.asarray(energy, dtype=np.float64)
        inside = np.interp(energy, self.energies, self.log10_p)
        excess = np.log(np.maximum(energy, self.energies[-1]) / self.energies[-1])
        if self.shape > 1e-6:
            beyond = -np.log1p(self.shape * excess / self.scale) / self.shape
        else:
            beyond = -excess / self.scale
        return np.where(np.isnan(energy), 0.0, inside + beyond / np.log(10))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a tail from what :meth:`to_dict` returned."""
        return cls(
            tuple(values["energies"]),
            tuple(values["log10_p"]),
            float(values["shape"]),
            float(values["scale"]),
            float(values["correlation_area"]),
            int(values["n_values"]),
        )


def _pareto_fit(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Fit a generalised Pareto distribution by probability-weighted moments.

    References
    ----------
    Hosking, Wallis (1987), Parameter and quantile estimation for the generalized Pareto distribution, Technometrics.
    """
    ordered = np.sort(excess)
    n = len(ordered)
    a0 = ordered.mean()
    a1 = (ordered * (n - np.arange(1, n + 1)) / (n - 1)).mean()
    if a0 <= 0 or a0 - 2 * a1 <= 0:
        return _SHAPES[0], max(float(a0), 1e-6)
    shape = float(np.clip(2 - a0 / (a0 - 2 * a1), *_SHAPES))
    # The scale that keeps the mean for the clipped shape.
    return shape, max(float(a0 * (1 - shape)), 1e-6)


def _correlation_area(maps: Sequence[NDArray[np.floating]]) -> float:
    """Return the sum of the correlations of normal scores over all lags, in positions."""
    values = np.sort(np.concatenate([m[np.isfinite(m)] for m in maps]))
    n = len(values)
    total = 0.0
    lags = [(row, col) for row in range(_LARGEST_LAG + 1) for col in range(-_LARGEST_LAG, _LARGEST_LAG + 1)]
    lags = [(row, col) for row, col in lags if row > 0 or col > 0]
    products = dict.fromkeys(lags, 0.0)
    counts = dict.fromkeys(lags, 0)
    for energies in maps:
        rank = (np.searchsorted(values, energies) + 0.5) / (n + 1)
        score = np.where(np.isfinite(energies), ndtri(np.clip(rank, 1e-9, 1 - 1e-9)), np.nan)
        # What a whole picture shares is not short-range correlation.
        score = score - np.nanmean(score) if np.isfinite(score).any() else score
        m_rows, m_cols = score.shape
        for row, col in lags:
            if row >= m_rows or abs(col) >= m_cols:
                continue
            a = score[row:, max(col, 0) : m_cols + min(col, 0)]
            b = score[: m_rows - row, max(-col, 0) : m_cols - max(col, 0)]
            product = a * b
            known = np.isfinite(product)
            products[row, col] += float(product[known].sum())
            counts[row, col] += int(known.sum())
        total += float(np.nansum(score**2))
    n_scores = sum(int(np.isfinite(m).sum()) for m in maps)
    variance = total / max(n_scores, 1)
    if variance <= 0:
        return 1.0
    correlations = [products[lag] / counts[lag] / variance for lag in lags if counts[lag]]
    # Each lag stands for itself and its opposite.
    return 1.0 + 2 * sum(c for c in correlations if c > _LEAST_CORRELATION)
