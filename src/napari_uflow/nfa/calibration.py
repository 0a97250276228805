"""Tails of score maps on images held out of training: from a score to a probability.

Under the model the latents are independent N(0, 1) and every statistic of them has a known law. Real held-out latents
do not follow it: their bulk is narrower and single positions explode (the exponential of a coupling evaluated outside
its training support). The probability of a score is therefore measured on held-out images.

Three things are fitted to each score map. The tail of the scores, after subtraction of the image's median where a
property of the whole image, such as brightness or focus, must not count against a part of it. The area over which
neighbouring scores count as one observation. And the variation of the medians, which detects images out of
distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtri, stdtr

__all__ = ["FEWEST_POSITIONS", "MapCalibration", "Tail", "TooFewPositionsError", "correlation_area", "profile_of"]

# Above this quantile the empirical distribution is replaced by a generalised Pareto distribution.
_TAIL_QUANTILE = 0.98
# Range of the Pareto shape: 0 is an exponential tail; at 1 the mean is infinite.
_SHAPES = (0.0, 0.9)
# Correlations below this are noise of the estimate.
_LEAST_CORRELATION = 0.05
_LARGEST_LAG = 12
FEWEST_POSITIONS = 50
"""Normal positions of a level required to calibrate it."""
# Fewest values beyond the empirical part that a Pareto distribution is fitted to.
_FEWEST_EXCESSES = 5
# Of the statistics of an image as a whole: anomalies, which have high scores, hardly change low quantiles.
_LOW_QUANTILE = 0.1
_MOST_ANOMALOUS = 0.2
# Rows of a large map that are processed at a time, to limit the memory.
_ROWS_PER_CHUNK = 256
# Images used to estimate the correlation; more hardly improve it.
_MOST_CORRELATED = 24


class TooFewPositionsError(ValueError):
    """Too few normal positions for a calibration."""


@dataclass(frozen=True)
class Tail:
    """Upper tail of a distribution: empirical up to the 98 % quantile, a generalised Pareto tail beyond.

    Attributes
    ----------
    values : tuple of float
        Values in increasing order; the Pareto tail begins at the last one.
    log10_p : tuple of float
        log10 of the probability of a value at least as high as each of `values`, decreasing from 0.
    shape, scale : float
        Parameters of the generalised Pareto distribution of the excess over the last of `values`.
    n_values : int
        Number of values that the tail was fitted to.
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
            Values, at least 50.
        fewest_excesses : int
            Number of values beyond the empirical part, 2 or more, below which a very heavy tail is assumed.

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
        extent = max(float(knots[-1] - knots[0]), 1e-6)
        shape, scale = _pareto_fit(excess) if len(excess) >= fewest_excesses else (_SHAPES[1], extent)
        return cls(tuple(map(float, knots)), tuple(map(float, log10_p)), shape, scale, n)

    @property
    def is_assumed(self) -> bool:
        """True if too few values lay beyond the empirical part and a very heavy tail is assumed."""
        return self.n_values * (1 - _TAIL_QUANTILE) < _FEWEST_EXCESSES

    def log10_tail(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return log10 of the probability of values at least as high as those given.

        Parameters
        ----------
        values : (...) array, float
            Values; NaN if not measured.

        Returns
        -------
        (...) array, float64
            log10 of the probability, at most 0; 0 for NaN.
        """
        values = np.asarray(values, dtype=np.float64)
        inside = np.interp(values, self.values, self.log10_p)
        excess = np.maximum(values - self.values[-1], 0.0)
        if self.shape > 1e-6:
            beyond = -np.log1p(self.shape * excess / self.scale) / self.shape
        else:
            beyond = -excess / self.scale
        return np.where(np.isnan(values), 0.0, inside + beyond / np.log(10))

    def value_at(self, log10_p: float) -> float:
        """Return the value that is reached with a probability, 1 at most, given as its log10."""
        if log10_p >= self.log10_p[-1]:
            return float(np.interp(-log10_p, -np.array(self.log10_p), self.values))
        excess = (self.log10_p[-1] - log10_p) * np.log(10)
        if self.shape > 1e-6:
            excess = np.expm1(self.shape * excess) / self.shape
        return float(self.values[-1] + self.scale * excess)

    @classmethod
    def envelope(cls, tails: Sequence[Tail]) -> Self:
        """Return a tail that is nowhere below any of some tails.

        Between its values it is linear in log10, as they are; far out it is the Pareto tail with the largest shape and
        scale of all.

        Parameters
        ----------
        tails : sequence of Tail
            At least one.
        """
        last = max(tail.values[-1] for tail in tails)
        # the Pareto parts are convex, so that a chord between two values lies above them
        beyond = [tail.value_at(p) for tail in tails for p in np.arange(-1.75, -12.1, -0.25)]
        values = np.unique([*(value for tail in tails for value in tail.values), *(v for v in beyond if v > last)])
        log10_p = np.max([tail.log10_tail(values) for tail in tails], axis=0)
        is_needed = np.append(np.diff(log10_p) < 0, True)  # not the values below the least of some tail
        values, log10_p = values[is_needed], log10_p[is_needed]
        scales = [tail.scale + tail.shape * (values[-1] - tail.values[-1]) for tail in tails]
        return cls(
            tuple(map(float, values)),
            tuple(map(float, log10_p)),
            max(tail.shape for tail in tails),
            max(scales),
            tails[0].n_values,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the tail from its attributes by name.

        Raises
        ------
        ValueError
            If they are none of a tail.
        """
        tail = cls(
            tuple(map(float, values["values"])),
            tuple(map(float, values["log10_p"])),
            float(values["shape"]),
            float(values["scale"]),
            int(values["n_values"]),
        )
        if not (
            len(tail.values) == len(tail.log10_p) > 0
            and np.isfinite([*tail.values, *tail.log10_p, tail.scale]).all()
            and all(np.diff(tail.values) > 0)
            and all(np.diff(tail.log10_p) < 0)
            and tail.log10_p[0] <= 0
            and _SHAPES[0] <= tail.shape <= _SHAPES[1]
            and tail.scale > 0
            and tail.n_values >= FEWEST_POSITIONS
        ):
            raise ValueError("a tail of its calibration is none that a training fits")
        return tail


@dataclass(frozen=True)
class MapCalibration:
    """Calibration of one score map (one level, one statistic) on normal images.

    Attributes
    ----------
    tail : Tail
        Tail of the values minus the median of their image.
    correlation_area : float
        Positions that count as one independent observation, 1 or more.
    median : float
        Median of an image, averaged over the images of a specimen and over specimens.
    median_sd : float
        Standard deviation of the median of one image of a new specimen; 0 for a single specimen.
    n_specimens : int
        Number of independent specimens.
    subtracts_median : bool
        The tail is that of the values minus the median of their image; otherwise of the values themselves.
    profiles : tuple of (float, float)
        For the first image of each specimen, what :func:`profile_of` returns; empty in models of earlier versions.
    """

    tail: Tail
    correlation_area: float
    median: float
    median_sd: float
    n_specimens: int
    subtracts_median: bool = True
    profiles: tuple[tuple[float, float], ...] = ()

    @classmethod
    def fit(
        cls,
        maps: Sequence[NDArray[np.floating]],
        specimens: Sequence[str] | None = None,
        like: MapCalibration | None = None,
        *,
        subtracts_median: bool = True,
    ) -> Self:
        """Fit to maps of held-out normal images.

        Parameters
        ----------
        maps : sequence of (M, N) arrays, float
            One per image; NaN in positions that were not measured or are not normal.
        specimens : sequence of str, optional
            Specimen of each image; by default every image is a specimen.
        like : MapCalibration, optional
            Fit to more images, whose kind of tail is used.
        subtracts_median : bool
            Subtract the median of each image, here and from new images.

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
        residuals = [m - median for m, median in zip(maps, medians, strict=True)] if subtracts_median else maps
        values = np.concatenate([r[np.isfinite(r)] for r in residuals]) if residuals else np.empty(0)
        fewest = _FEWEST_EXCESSES
        if like is not None:
            fewest = len(values) + 2 if like.tail.is_assumed else 2
        return cls(
            Tail.fit(values, fewest),
            correlation_area(residuals[:: -(-len(residuals) // _MOST_CORRELATED)]),
            float(np.mean(of_specimens)),
            _sd_of_one(list(by_specimen.values())) if len(by_specimen) > 1 else 0.0,
            len(by_specimen),
            subtracts_median,
            tuple(profile_of(maps[names.index(name)]) for name in by_specimen),
        )

    @classmethod
    def strictest(cls, fitted: Sequence[Self]) -> Self:
        """Return the first of some calibrations of one map with the tail and correlation that no other exceeds."""
        return replace(
            fitted[0],
            tail=Tail.envelope([other.tail for other in fitted]),
            correlation_area=max(other.correlation_area for other in fitted),
        )

    def log10_tail(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return log10 of the probability that a normal position reaches each value of one image.

        Parameters
        ----------
        values : (M, N) array, float
            Values; NaN if not measured.

        Returns
        -------
        (M, N) array, float64
            At most 0; 0 for NaN.
        """
        if not np.isfinite(values).any():
            return np.zeros(values.shape)
        median = float(np.nanmedian(values.astype(np.float64, copy=False))) if self.subtracts_median else 0.0
        log10_p = np.empty(values.shape)
        for start in range(0, len(values), _ROWS_PER_CHUNK):
            rows = values[start : start + _ROWS_PER_CHUNK].astype(np.float64)
            log10_p[start : start + _ROWS_PER_CHUNK] = self.tail.log10_tail(rows - median)
        return log10_p

    def median_p_value(self, values: NDArray[np.floating]) -> float:
        """Return the two-sided probability that the median of a normal image differs as much from the held-out ones.

        Student's t for one more specimen.

        Parameters
        ----------
        values : (M, N) array, float
            Values of one image; NaN if not measured.

        Returns
        -------
        float
            0 to 1; 1 without a measured value or with fewer than three specimens.
        """
        values = np.asarray(values, dtype=np.float64)
        if self.n_specimens < 3 or not self.median_sd > 0 or not np.isfinite(values).any():
            return 1.0
        distance = abs(float(np.nanmedian(values)) - self.median)
        distance /= self.median_sd * np.sqrt(1 + 1 / self.n_specimens)
        return float(2 * stdtr(self.n_specimens - 1, -distance))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(self)
        return values if self.profiles else {name: value for name, value in values.items() if name != "profiles"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the calibration from the values of :meth:`to_dict`.

        Raises
        ------
        ValueError
            If they are none of a calibration.
        """
        found = cls(
            Tail.from_dict(values["tail"]),
            float(values["correlation_area"]),
            float(values["median"]),
            float(values["median_sd"]),
            int(values["n_specimens"]),
            bool(values.get("subtracts_median", True)),
            tuple((float(median), float(extent)) for median, extent in values.get("profiles", ())),
        )
        is_finite = np.isfinite([found.correlation_area, found.median, found.median_sd]).all()
        if not is_finite or found.correlation_area < 1 or found.median_sd < 0 or found.n_specimens < 1:
            raise ValueError("a map of its calibration is none that a training fits")
        if len(found.profiles) not in (0, found.n_specimens) or not np.isfinite(found.profiles).all():
            raise ValueError("the held-out medians of its calibration are none that a training measures")
        return found


def profile_of(values: NDArray[np.floating], is_anomalous: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """Return the statistics of a score map by which images that are no longer like the held-out ones are noticed.

    Parameters
    ----------
    values : (M, N) array, float
        Values of one image; NaN if not measured.
    is_anomalous : (M, N) array, bool, optional
        Positions in anomalous regions, which are left out so that many images with anomalies are no drift. Where they
        are more than a fifth of the image, it differs as a whole, and nothing is left out.

    Returns
    -------
    (float, float)
        Median, and its distance from the 10 % quantile; NaN without a measured value.
    """
    is_known = np.isfinite(values)
    if is_anomalous is not None and (is_anomalous & is_known).sum() <= _MOST_ANOMALOUS * is_known.sum():
        is_known &= ~is_anomalous
    if not is_known.any():
        return np.nan, np.nan
    low, median = np.quantile(values[is_known].astype(np.float64), [_LOW_QUANTILE, 0.5])
    return float(median), float(median - low)


def _sd_of_one(by_specimen: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation of the value of one image, between specimens and within them."""
    between = float(np.var([np.mean(values) for values in by_specimen], ddof=1))
    n_within = sum(len(values) - 1 for values in by_specimen)
    within = sum(float(np.var(values)) * len(values) for values in by_specimen) / max(n_within, 1)
    return float(np.sqrt(between + within * (1 - np.mean([1 / len(values) for values in by_specimen]))))


def _pareto_fit(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Fit a generalised Pareto distribution by probability-weighted moments.

    With the moments a0 = mean(x) and a1 = mean(x (1 - F(x))): shape = 2 - a0 / (a0 - 2 a1) and scale = a0 (1 - shape).

    References
    ----------
    Hosking, J. R. M., Wallis, J. R. (1987). Parameter and quantile estimation for the generalized Pareto distribution.
    Technometrics 29(3), 339-349. doi:10.1080/00401706.1987.10488243 (their k is minus the shape).
    """
    ordered = np.sort(excess)
    n = len(ordered)
    a0 = ordered.mean()
    a1 = (ordered * (n - np.arange(1, n + 1)) / (n - 1)).mean()
    if a0 <= 0 or a0 - 2 * a1 <= 0:
        return _SHAPES[0], max(float(a0), 1e-6)
    shape = float(np.clip(2 - a0 / (a0 - 2 * a1), *_SHAPES))
    # This scale preserves the mean for the clipped shape.
    return shape, max(float(a0 * (1 - shape)), 1e-6)


def correlation_area(maps: Sequence[NDArray[np.floating]]) -> float:
    """Return the sum of the correlations of normal scores over all lags up to 12 positions, 1 or more.

    Parameters
    ----------
    maps : sequence of (M, N) arrays, float
        Maps of normal images; NaN in positions that were not measured.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(size=(60, 60))
    >>> correlation_area([noise])
    1.0
    >>> doubled = noise.repeat(2, axis=0).repeat(2, axis=1)  # each value covers 2 x 2 positions
    >>> 3.5 < correlation_area([doubled]) < 4.5
    True
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
        # A property of the whole image is not short-range correlation.
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
    """Return the sum of products of values over all pairs of positions, for every lag up to the largest one."""
    shape = [fft.next_fast_len(n + _LARGEST_LAG, real=True) for n in values.shape]
    power = np.abs(fft.rfft2(values, shape)) ** 2
    products = fft.irfft2(power, shape)
    lags = np.arange(-_LARGEST_LAG, _LARGEST_LAG + 1)
    return np.asarray(products[np.ix_(lags % shape[0], lags % shape[1])])
