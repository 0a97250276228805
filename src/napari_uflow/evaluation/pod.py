"""Probability of detection (POD): the fraction of defects that are found, as a function of their size and contrast.

The curve of non-destructive testing for hit/miss data: a logistic regression in the logarithm of the size. Its numbers
are a90, the size that is found in 90 % of cases, and a90/95, the upper limit of a90 with 95 % confidence. Maximum
likelihood has no solution if the sizes of found and missed defects do not overlap, which is common with few defects.
The likelihood is therefore penalised by Jeffreys' prior, and the limit is that of the profile of the penalised
likelihood. Defects that are found by chance, or missed whatever their size, flatten the curve and increase both sizes.

References
----------
MIL-HDBK-1823A (2009). Nondestructive Evaluation System Reliability Assessment. US Department of Defense.

A. P. Berens (1989). NDE reliability data analysis. ASM Handbook 17, Nondestructive Evaluation and Quality Control.

D. Firth (1993). Bias reduction of maximum likelihood estimates. Biometrika 80. doi 10.1093/biomet/80.1.27

G. Heinze, M. Schemper (2002). A solution to the problem of separation in logistic regression. Statistics in Medicine
21. doi 10.1002/sim.1047
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit

from napari_uflow.errors import ConfigError

__all__ = ["ALL_KINDS", "PodCurve", "PodRecord", "fit_pod"]

ALL_KINDS = "all"
"""Kind of the curve of all defects together."""

_TARGET = math.log(0.9 / 0.1)  # log-odds of 90 %
_CHI2 = 2.705543454  # 90 % quantile of chi-squared with one degree of freedom: a one-sided limit of 95 %
_N_HALVINGS = 12

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PodRecord:
    """Outcome for one defect.

    Attributes
    ----------
    kind : str
        Kind of the defect.
    size_px : float
        Size in pixels, above 0.
    contrast : float or None
        Contrast, above 0; None for a kind that has none.
    is_found : bool
        True if it was found.
    """

    kind: str
    size_px: float
    contrast: float | None
    is_found: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PodCurve:
    """Probability of detection of one kind of defect as a function of the size.

    Attributes
    ----------
    kind : str
        Kind, or `ALL_KINDS` for all defects together, whatever their contrast.
    contrast : float or None
        Contrast that the curve holds for; None for a kind that has none, and for all kinds together.
    n, n_found : int
        Defects of the kind, and those of them that were found.
    smallest, largest : float
        Range of the sizes of these defects, in pixels.
    intercept, slope : float
        Log-odds of the detection at 1 pixel, and their increase per unit of the natural logarithm of the size, 0 or
        more; NaN if there were too few different defects for a fit.
    a90 : float or None
        Size found in 90 % of cases, in pixels; `smallest` if that one already is; None if `largest` is not.
    a90_95 : float or None
        Upper limit of `a90` with 95 % confidence (a90/95); None if it is above `largest`.
    """

    kind: str
    contrast: float | None
    n: int
    n_found: int
    smallest: float
    largest: float
    intercept: float
    slope: float
    a90: float | None
    a90_95: float | None

    def pod(self, size_px: ArrayLike) -> Floats:
        """Return the probability of detection, 0 to 1, of defects of the given sizes in pixels; NaN without a fit."""
        sizes = np.asarray(size_px, dtype=np.float64)
        return np.asarray(expit(self.intercept + self.slope * np.log(sizes)))


def fit_pod(records: Sequence[PodRecord], *, contrast: float | None = None) -> tuple[PodCurve, ...]:
    """Fit the probability of detection by size.

    The kinds share the slope in the logarithms of size and contrast, so that few defects of each kind are enough, and
    differ in their intercept. The curve of all kinds together is a fit of its own, to the mixture of the records.

    Parameters
    ----------
    records : sequence of PodRecord
        Outcomes, assumed to be independent.
    contrast : float or None
        Contrast that the curves hold for, within the range of the records; their geometric mean by default.

    Returns
    -------
    tuple of PodCurve
        That of all kinds together, then one per kind in the order of the records' first; empty without records.

    Raises
    ------
    ConfigError
        If a size or a contrast is not above 0, or `contrast` is outside the range of the records.
    """
    if not records:
        return ()
    known = [r.contrast for r in records if r.contrast is not None]
    if not all(0 < value < math.inf for value in [*(r.size_px for r in records), *known]):
        raise ConfigError("sizes and contrasts of defects must be finite numbers above 0")
    if known and contrast is not None and not min(known) <= contrast <= max(known):
        raise ConfigError(
            f"the contrast must be within that of the defects, {min(known):g} to {max(known):g}, not {contrast:g}"
        )
    at = contrast if contrast is not None or not known else math.exp(float(np.mean(np.log(known))))
    kinds = list(dict.fromkeys(r.kind for r in records))
    found = np.array([r.is_found for r in records], dtype=np.float64)
    sizes = np.log([r.size_px for r in records])
    contrasts = np.array([0.0 if r.contrast is None or at is None else math.log(r.contrast / at) for r in records])
    of_kind = np.array([[r.kind == kind for kind in kinds] for r in records], dtype=np.float64)
    together = _Model(np.ones((len(records), 1)), sizes, np.zeros(len(records)), found)
    by_kind = _Model(of_kind, sizes, contrasts, found)
    curves = [together.curve(ALL_KINDS, 0, None)]
    for i, kind in enumerate(kinds):
        has_contrast = any(r.contrast is not None for r in records if r.kind == kind)
        curves.append(by_kind.curve(kind, i, at if has_contrast else None))
    return tuple(curves)


class _Model:
    """Penalised logistic regression with an intercept per kind, and common slopes of size and contrast.

    Parameters
    ----------
    of_kind : (n, k) array, float64
        1 in the column of the record's kind.
    sizes, contrasts : (n,) arrays, float64
        Natural logarithms of size and contrast; the latter relative to the contrast of the curves.
    found : (n,) array, float64
        1 for a defect that was found, otherwise 0.
    """

    def __init__(self, of_kind: Floats, sizes: Floats, contrasts: Floats, found: Floats) -> None:
        self._of_kind, self._sizes, self._found = of_kind, sizes, found
        self._centre = float(sizes.mean())
        columns = [of_kind, (sizes - self._centre)[:, None]]
        if np.ptp(contrasts) > 0:
            columns.append(contrasts[:, None])
        self._design = np.concatenate(columns, axis=1)
        self._slope = of_kind.shape[1]
        n_columns = self._design.shape[1]
        is_known = len(found) > n_columns and np.linalg.matrix_rank(self._design) == n_columns
        self._best: Floats | None = None
        self._likelihood = 0.0
        if is_known:
            self._best, self._likelihood = self._fit(np.eye(n_columns), np.zeros(n_columns))

    def curve(self, kind: str, column: int, contrast: float | None) -> PodCurve:
        """Return the curve of the kind in a column."""
        own = self._of_kind[:, column] > 0
        low, high = float(self._sizes[own].min()), float(self._sizes[own].max())
        intercept = slope = math.nan
        a90 = a90_95 = None
        if self._best is not None:
            slope = float(self._best[self._slope])
            intercept = float(self._best[column]) - slope * self._centre
            reached = low if intercept + slope * low >= _TARGET else math.inf
            if not math.isfinite(reached) and slope > 0:
                reached = (_TARGET - intercept) / slope
            if reached <= high:
                a90 = math.exp(reached)
                limit = self._limit(column, reached, high)
                a90_95 = None if limit is None else math.exp(limit)
        return PodCurve(
            kind=kind,
            contrast=contrast,
            n=int(own.sum()),
            n_found=int(self._found[own].sum()),
            smallest=math.exp(low),
            largest=math.exp(high),
            intercept=intercept,
            slope=slope,
            a90=a90,
            a90_95=a90_95,
        )

    def _limit(self, column: int, low: float, high: float) -> float | None:
        """Return the largest logarithm of a size up to `high` that the records allow as that of a90; None for none."""
        # Curves with a smaller a90 are nested (the slope is not negative), so the profile falls above the best one.
        if not self._is_excluded(column, high):
            return None
        if self._is_excluded(column, low):
            return low
        for _ in range(_N_HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self._is_excluded(column, middle) else (middle, high)
        return high

    def _is_excluded(self, column: int, size: float) -> bool:
        """Return True if the likelihood of a curve with 90 % at this size is too low."""
        # The intercept of the kind follows from the slope: target = intercept + slope * (size - centre).
        n_columns = self._design.shape[1]
        free = np.delete(np.eye(n_columns), column, axis=1)
        free[column] = -(size - self._centre) * free[self._slope]
        _, likelihood = self._fit(free, _TARGET * (np.arange(n_columns) == column))
        return 2 * (self._likelihood - likelihood) > _CHI2

    def _fit(self, free: Floats, fixed: Floats) -> tuple[Floats, float]:
        """Maximise the penalised likelihood over coefficients ``free @ x + fixed``; the slope is not negative."""
        best, likelihood = self._ascend(free, fixed)
        if best[self._slope] < 0:
            kept = free[self._slope] == 0
            level = free[:, kept]
            best, likelihood = self._ascend(level, fixed)
        return best, likelihood

    def _ascend(self, free: Floats, fixed: Floats) -> tuple[Floats, float]:
        x = np.zeros(free.shape[1])
        coefficients = free @ x + fixed
        value = self._value(coefficients)
        for _ in range(200):
            probability = expit(self._design @ coefficients)
            weight = probability * (1 - probability)
            information = self._design.T @ (weight[:, None] * self._design)
            half = self._design @ np.linalg.pinv(information, hermitian=True)
            leverage = weight * (half * self._design).sum(axis=1)
            score = self._design.T @ (self._found - probability + leverage * (0.5 - probability))
            step = np.linalg.lstsq(free.T @ information @ free, free.T @ score, rcond=None)[0] if x.size else x
            step = step * min(1.0, 5.0 / max(float(np.abs(step).max(initial=0.0)), 1e-300))
            for _ in range(30):
                moved = free @ (x + step) + fixed
                new = self._value(moved)
                if new >= value - 1e-12:
                    break
                step = step / 2
            else:
                break
            x, coefficients = x + step, moved
            value, gain = new, new - value
            if gain < 1e-9 and np.abs(step).max(initial=0.0) < 1e-5:
                break
        return coefficients, value

    def _value(self, coefficients: Floats) -> float:
        """Return the logarithm of the likelihood times the square root of the information's determinant."""
        odds = self._design @ coefficients
        likelihood = float(np.where(self._found > 0, log_expit(odds), log_expit(-odds)).sum())
        log_weight = log_expit(odds) + log_expit(-odds)
        sign, determinant = np.linalg.slogdet(self._design.T @ (np.exp(log_weight)[:, None] * self._design))
        return likelihood + 0.5 * float(determinant) if sign > 0 else -math.inf
