"""The block test: more extreme latents in a window than a binomial law allows.

A latent is a candidate where its square reaches a threshold that a standard normal passes with probability q. In
a window of n positions the candidates of all C channels, divided by C, are compared with a binomial law of n trials.
Dividing makes C channels worth one, so the test has little power; it is here because it was published, and to compare.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import betainc, betaln, xlog1py, xlogy
from scipy.stats import binom, chi2
from skimage.transform import resize

__all__ = ["binomial_log10_nfa", "binomial_log10_tail", "block_log10_tail", "candidate_threshold"]

_LN10 = float(np.log(10.0))
_MAX_TERMS = 100_000
# Sums of counts over a window are whole multiples of 1 / C; rounding errors of the running sums must not move them.
_DECIMALS = 9


def candidate_threshold(probability_thr: float) -> float:
    """Return the square from which a latent is a candidate: the quantile of chi-squared with one degree of freedom.

    Parameters
    ----------
    probability_thr
        Probability that a standard normal latent is *not* a candidate, between 0 and 1.

    Raises
    ------
    ValueError
        If it is not strictly between 0 and 1.
    """
    if not 0 < probability_thr < 1:
        raise ValueError(f"probability_thr must be between 0 and 1, got {probability_thr}")
    return float(chi2.ppf(probability_thr, 1))


def binomial_log10_tail(
    count: ArrayLike, n_trials: int, probability: float, *, continuous: bool = False
) -> NDArray[np.float64]:
    """Return log10 P(X >= count) for X binomial.

    Parameters
    ----------
    count : (...) array, float
        Successes, 0 to `n_trials`; need not be whole.
    n_trials
        Number of trials, at least 1.
    probability
        Of a success, between 0 and 1.
    continuous
        False: P(X >= ceil(count)), the law as it is. True: its continuation to real counts by the regularised
        incomplete beta function, I_probability(count, n_trials - count + 1), which is equal at whole counts.

    Returns
    -------
    (...) array, float64
        From 0 (count 0) down to n_trials * log10(probability); always finite.

    References
    ----------
    NIST Digital Library of Mathematical Functions, 8.17.5 (binomial sums) and 8.17.8 (series).
    """
    x = np.clip(np.asarray(count, dtype=np.float64), 0.0, n_trials)
    if not continuous:
        x = np.ceil(np.round(x, _DECIMALS))
    levels, where = np.unique(x, return_inverse=True)
    values = np.array([_log_beta_tail(level, n_trials, probability) for level in levels])
    return np.asarray(values[where].reshape(x.shape) / _LN10) + 0.0


def _log_beta_tail(a: float, n: int, q: float) -> float:
    """Ln I_q(a, n - a + 1), also where it is far below the smallest float64."""
    if a <= 0:
        return 0.0
    if a <= n * q:  # the bulk: the logarithm of a number near 1
        return float(np.log(betainc(a, n - a + 1.0, q)))
    b = n - a + 1.0
    # I_q(a, b) = q^a (1 - q)^b / (a B(a, b)) * (1 + sum_k prod_{j=1..k} (a + b + j - 1) / (a + j) q^j), positive terms
    # that fall by a ratio below 1 where a > n q.
    total, term = 1.0, 1.0
    for j in range(_MAX_TERMS):
        term *= q * (a + b + j) / (a + 1 + j)
        total += term
        if term < 1e-16 * total:
            break
    return float(xlogy(a, q) + xlog1py(b, -q) - np.log(a) - betaln(a, b) + np.log(total))


def block_log10_tail(
    candidates: NDArray[np.floating],
    n_channels: int,
    *,
    window_size: float,
    probability_thr: float,
    high_precision: bool = False,
    published: bool = False,
) -> NDArray[np.float64]:
    """Test the window around every position of one level.

    Parameters
    ----------
    candidates : (M, N) array, float
        Number of channels, 0 to C, whose latent is a candidate; NaN where not measured counts as none.
    n_channels
        Number of channels C, at least 1.
    window_size
        Side of the window in positions of this level; it reaches ``max(floor(window_size / 2), 1)`` to each side. At
        the border the map is continued by reflection.
    probability_thr
        Probability that a normal latent is not a candidate.
    high_precision
        True for the continuous tail (see :func:`binomial_log10_tail`), which does not jump between whole counts.
    published
        True for P(X > count) in place of P(X >= count), as in the published code: a window full of candidates is then
        -inf, and `high_precision` has no effect.

    Returns
    -------
    (M, N) array, float64
        log10 of the probability.

    References
    ----------
    Tailanian, M., Pardo, A., Muse, P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
    Unsupervised Threshold. J. Math. Imaging Vis. doi:10.1007/s10851-024-01193-y (versions 1 and 2 of arXiv 2211.12353).
    """
    half = max(int(window_size // 2), 1)
    side = 2 * half + 1
    counts = np.nan_to_num(np.asarray(candidates, dtype=np.float64), nan=0.0)
    x = np.round(ndimage.uniform_filter(counts, side, mode="mirror") * side**2 / n_channels, _DECIMALS)
    n, q = side**2, 1.0 - probability_thr
    if published:
        with np.errstate(divide="ignore"):
            log10_p: NDArray[np.float64] = binom.logsf(np.floor(x), n, q) / _LN10
        return log10_p
    return binomial_log10_tail(x, n, q, continuous=high_precision)


def binomial_log10_nfa(
    candidates: Sequence[NDArray[np.floating]],
    n_channels: Sequence[int],
    strides: Sequence[int],
    shape: tuple[int, int],
    *,
    window_size: float = 5.0,
    probability_thr: float = 0.9,
    high_precision: bool = False,
    published: bool = False,
) -> NDArray[np.float32]:
    """Return log10 of the number of false alarms of the block test for every pixel of the image.

    Parameters
    ----------
    candidates : sequence of (M_l, N_l) arrays, float
        Number of candidates at each position, finest level first.
    n_channels, strides
        Channels and pixels per position of each level.
    shape
        Rows and columns (M, N) of the image.
    window_size
        Side of the window on the finest level, in positions; half as many on the next one, and so on.
    probability_thr, high_precision, published
        As in :func:`block_log10_tail`.

    Returns
    -------
    (M, N) array, float32
        ``log10(sum of all positions) + sum over levels of log10 p``, each level interpolated bilinearly between the
        centres of its positions, as the heatmap is. Always finite.

    Notes
    -----
    Adding the levels' logarithms treats them as independent, as published.
    """
    total = np.full(shape, np.log10(sum(c.size for c in candidates)), dtype=np.float32)
    for level, (counts, channels, stride) in enumerate(zip(candidates, n_channels, strides, strict=True)):
        log10_p = block_log10_tail(
            counts,
            channels,
            window_size=window_size / 2**level,
            probability_thr=probability_thr,
            high_precision=high_precision,
            published=published,
        )
        size = (counts.shape[0] * stride, counts.shape[1] * stride)
        # Half-pixel geometry; -inf would become NaN in an interpolation.
        finite = np.maximum(log10_p, np.finfo(np.float32).min / 8).astype(np.float32)
        total += resize(finite, size, order=1, mode="edge", anti_aliasing=False, preserve_range=True)[
            : shape[0], : shape[1]
        ]
    return total
