"""How strange is a value where everything is normal: tails of maps of scores on images held out of training.

Under the model the latents are independent standard normals and every statistic of them has a known law. Real held-out
latents do not follow it: their bulk is narrower and single positions explode (the exponential of a coupling evaluated
off its training support). What turns a value into a probability is therefore measured on images that were held out.

Three things are taken from them, for each map of scores: the tail of the values, after the median of the image was
subtracted (what a whole image shares, brightness or focus, is not scores against a part of it); the area over which
neighbouring values count as one observation; and how much the medians of images vary, to tell when a whole image is
unlike the normal ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtri, stdtr

__all__ = ["FEWEST_POSITIONS", "MapCalibration", "Tail", "TooFewPositionsError", "correlation_area"]

# Above this quantile the empirical distribution is replaced by a generalised Pareto distribution.
_TAIL_QUANTILE = 0.98
# Range of the Pareto shape: 0 is an exponential tail; at 1 the mean is infinite.
_SHAPES = (0.0, 0.9)
# Correlations below this are noise of the estimate.
_LEAST_CORRELATION = 0.05
_LARGEST_LAG = 12
FEWEST_POSITIONS = 50
"""Normal positions of a level without which it cannot be calibrated."""
# Values beyond the empirical part that a Pareto distribution is fitted to, at least.
_FEWEST_EXCESSES = 5
# Large maps are looked at in so many rows, for the sake of memory.
_ROWS_AT_ONCE = 256
# Images that the correlation is taken from; more say hardly more.
_MOST_CORRELATED = 24


class TooFewPositionsError(ValueError):
    """There are too few normal positions to calibrate on."""


@dataclass(frozen=True)
class Tail:
    """Upper tail of a distribution: the empirical one as far as there are enough values, a Pareto tail beyond.

    Attributes
    ----------
    values : tuple of float
        Values in increasing order; the Pareto tail begins at the last one.
    log10_p : tuple of float
        log10 of the probability of a value at least as high as each of `values`, decreasing from 0.
    shape, scale : float
        Parameters of the generalised Pareto distribution of the excess over the last of `values`.
    n_values : int
        Values that it was fitted to.
    """

    values: tuple[float, ...]
    log10_p: tuple[float, ...]
    shape: float
    scale: float
    n_values: int

    @classmethod
    def fit(cls, values: NDArray[np.floating], fewest_excesses: int = _FEWEST_EXCESSES) -> Self:
        """Fit the tail to finite values.

        Parameters
        ----------
        values : (n,) array, float
        fewest_excesses : int
            Values beyond the empirical part without which a very heavy tail is assumed, 2 or more.

        Raises
        ------
        ValueError
            If there are fewer than 50 values.
        """
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        n = len(ordered)
        if n < FEWEST_POSITIONS:
            raise TooFewPositionsError(f"at least {FEWEST_POSITIONS} held-out positions are needed, not {n}")
        survival = np.concatenate(([1.0], np.geomspace(0.999, 1 - _TAIL_QUANTILE, 63)))
        knots = np.quantile(ordered, 1 - survival)
        # Equal values keep the larger probability, so that the tail decreases strictly.
        knots, first = np.unique(knots, return_index=True)
        log10_p = np.log10(survival[first])
        excess = ordered[ordered > knots[-1]] - knots[-1]
        spread = max(float(knots[-1] - knots[0]), 1e-6)
        shape, scale = _pareto_fit(excess) if len(excess) >= fewest_excesses else (_SHAPES[1], spread)
        return cls(tuple(map(float, knots)), tuple(map(float, log10_p)), shape, scale, n)

    @property
    def is_assumed(self) -> bool:
        """Whether there were too few values beyond the empirical part, and a very heavy tail is assumed."""
        return self.n_values * (1 - _TAIL_QUANTILE) < _FEWEST_EXCESSES

    def log10_tail(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return log10 of the probability of values at least as high as those given.

        Parameters
        ----------
        values : (...) array, float
            NaN where not measured.

        Returns
        -------
        (...) array, float64
            At most 0; 0 where not measured.
        """
        values = np.asarray(values, dtype=np.float64)
        inside = np.interp(values, self.values, self.log10_p)
        excess = np.maximum(values - self.values[-1], 0.0)
        if self.shape > 1e-6:
            beyond = -np.log1p(self.shape * excess / self.scale) / self.shape
        else:
            beyond = -excess / self.scale
        return np.where(np.isnan(values), 0.0, inside + beyond / np.log(10))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a tail from its attributes by name."""
        return cls(
            tuple(values["values"]),
            tuple(values["log10_p"]),
            float(values["shape"]),
            float(values["scale"]),
            int(values["n_values"]),
        )


@dataclass(frozen=True)
class MapCalibration:
    """What is known of one kind of map (one level, one statistic) on normal images.

    Attributes
    ----------
    tail : Tail
        Of the values minus the median of their image.
    correlation_area : float
        Positions that together count as one independent observation, 1 or more.
    median, median_spread : float
        Mean over the fields of the mean of the medians of their images, and standard deviation of the median of one
        image of any field; the latter is 0 for a single field.
    n_specimens : int
        Independent fields it was fitted to.
    """

    tail: Tail
    correlation_area: float
    median: float
    median_spread: float
    n_specimens: int

    @classmethod
    def fit(
        cls,
        maps: Sequence[NDArray[np.floating]],
        specimens: Sequence[str] | None = None,
        like: MapCalibration | None = None,
    ) -> Self:
        """Fit to maps of held-out normal images.

        Parameters
        ----------
        maps : sequence of (M, N) arrays, float
            One per image; NaN where not measured or not normal.
        fields : sequence of str, optional
            The field of each image; by default each is a field of its own.
        like : MapCalibration, optional
            A fit to more images, whose kind of tail is taken.

        Raises
        ------
        ValueError
            If there are fewer than 50 values.
        """
        names = [str(i) for i in range(len(maps))] if specimens is None else list(specimens)
        names = [name for name, m in zip(names, maps, strict=True) if np.isfinite(m).any()]
        maps = [m.astype(np.float64) for m in maps if np.isfinite(m).any()]
        medians = [float(np.nanmedian(m)) for m in maps]
        by_specimen: dict[str, list[float]] = {}
        for name, median in zip(names, medians, strict=True):
            by_specimen.setdefault(name, []).append(median)
        of_specimens = [float(np.mean(values)) for values in by_specimen.values()]
        residuals = [m - median for m, median in zip(maps, medians, strict=True)]
        values = np.concatenate([r[np.isfinite(r)] for r in residuals]) if residuals else np.empty(0)
        fewest = _FEWEST_EXCESSES
        if like is not None:
            fewest = len(values) + 2 if like.tail.is_assumed else 2
        return cls(
            Tail.fit(values, fewest),
            correlation_area(residuals[:: -(-len(residuals) // _MOST_CORRELATED)]),
            float(np.mean(of_specimens)),
            _spread_of_one(list(by_specimen.values())) if len(by_specimen) > 1 else 0.0,
            len(by_specimen),
        )

    def log10_tail(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return log10 of the probability of the values of one image; 0 where not measured (NaN).

        Parameters
        ----------
        values : (M, N) array, float
        """
        if not np.isfinite(values).any():
            return np.zeros(values.shape)
        median = float(np.nanmedian(values.astype(np.float64, copy=False)))
        log10_p = np.empty(values.shape)
        for start in range(0, len(values), _ROWS_AT_ONCE):
            rows = values[start : start + _ROWS_AT_ONCE].astype(np.float64)
            log10_p[start : start + _ROWS_AT_ONCE] = self.tail.log10_tail(rows - median)
        return log10_p

    def unlike(self, values: NDArray[np.floating]) -> float:
        """Return the probability, two-sided, that the median of a normal image is as far from those seen before.

        Student's t for one more field. 1 where it cannot be told: nothing measured, fewer than three fields.

        Parameters
        ----------
        values : (M, N) array, float
        """
        values = np.asarray(values, dtype=np.float64)
        if self.n_specimens < 3 or not self.median_spread > 0 or not np.isfinite(values).any():
            return 1.0
        distance = abs(float(np.nanmedian(values)) - self.median)
        distance /= self.median_spread * np.sqrt(1 + 1 / self.n_specimens)
        return float(2 * stdtr(self.n_specimens - 1, -distance))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a calibration from what :meth:`to_dict` returned."""
        return cls(
            Tail.from_dict(values["tail"]),
            float(values["correlation_area"]),
            float(values["median"]),
            float(values["median_spread"]),
            int(values["n_specimens"]),
        )


def _spread_of_one(by_specimen: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation of one image's value: between fields, and what their means hide within them."""
    between = float(np.var([np.mean(values) for values in by_specimen], ddof=1))
    n_within = sum(len(values) - 1 for values in by_specimen)
    within = sum(float(np.var(values)) * len(values) for values in by_specimen) / max(n_within, 1)
    return float(np.sqrt(between + within * (1 - np.mean([1 / len(values) for values in by_specimen]))))


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


def correlation_area(maps: Sequence[NDArray[np.floating]]) -> float:
    """Return the sum of the correlations of normal scores over all lags up to 12 positions, 1 or more.

    Parameters
    ----------
    maps : sequence of (M, N) arrays, float
        NaN where not measured.
    """
    values = np.sort(np.concatenate([m[np.isfinite(m)] for m in maps]))
    side = 2 * _LARGEST_LAG + 1
    products, counts = np.zeros((2, side, side))
    for values_at in maps:
        known = np.isfinite(values_at)
        if not known.any():
            continue
        rank = (np.searchsorted(values, values_at) + 0.5) / (len(values) + 1)
        score = np.where(known, ndtri(np.clip(rank, 1e-9, 1 - 1e-9)), 0.0)
        # What a whole image shares is not short-range correlation.
        score = np.where(known, score - score[known].mean(), 0.0)
        products += _autocorrelation(score)
        counts += _autocorrelation(known.astype(np.float64))
    variance = products[_LARGEST_LAG, _LARGEST_LAG] / max(counts[_LARGEST_LAG, _LARGEST_LAG], 1.0)
    if variance <= 0:
        return 1.0
    correlations = np.divide(products, counts, out=np.zeros_like(products), where=counts > 0.5) / variance
    correlations[_LARGEST_LAG, _LARGEST_LAG] = 0.0
    return float(1.0 + correlations[correlations > _LEAST_CORRELATION].sum())


def _autocorrelation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the products of values over all pairs of positions, for every lag up to the largest in each direction."""
    shape = [fft.next_fast_len(n + _LARGEST_LAG, real=True) for n in values.shape]
    power = np.abs(fft.rfft2(values, shape)) ** 2
    products = fft.irfft2(power, shape)
    lags = np.arange(-_LARGEST_LAG, _LARGEST_LAG + 1)
    return np.asarray(products[np.ix_(lags % shape[0], lags % shape[1])])
